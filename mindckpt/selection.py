"""Which of a file's entries are loaded, by MindSpore's rules."""

from __future__ import annotations

from collections.abc import Callable

from mindckpt.arrays import type_name

NameFilter = Callable[[str], object]


def checked_choice(choice_func: object) -> NameFilter | None:
    """A `choice_func` argument: None, or a function of a parameter's name whose truth value counts.

    Raises:
        TypeError: It is something else.
    """
    if choice_func is not None and not callable(choice_func):
        raise TypeError(f"choice_func must be callable or None, got {type_name(choice_func)}")
    return choice_func


def name_filter(
    specify_prefix: object, filter_prefix: object, choice_func: object
) -> NameFilter | None:
    """What tells whether to load an entry by its name; None loads all.

    A name is loaded when it starts with one of `specify_prefix` (if given) and with none of
    `filter_prefix`. Only where neither is given, `choice_func` is asked.

    Raises:
        TypeError: A prefix is not a str, or a list or tuple of str; or `choice_func` is not
            callable.
        ValueError: A list or tuple of prefixes is empty, or a prefix is ''.
    """
    wanted = _prefixes("specify_prefix", specify_prefix)
    unwanted = _prefixes("filter_prefix", filter_prefix)
    choice = checked_choice(choice_func)
    if wanted is None and unwanted is None:
        return choice

    def starts_right(name: str) -> bool:
        return (wanted is None or name.startswith(wanted)) and not (
            unwanted is not None and name.startswith(unwanted)
        )

    return starts_right


def _prefixes(argument: str, prefixes: object) -> tuple[str, ...] | None:
    if prefixes is None:
        return None
    if isinstance(prefixes, str):
        prefixes = (prefixes,)
    if not isinstance(prefixes, (list, tuple)):
        raise TypeError(
            f"{argument} must be a str, or a list or tuple of str, got {type_name(prefixes)}"
        )
    if not prefixes:
        raise ValueError(f"{argument} is an empty {type_name(prefixes)}")
    for index, prefix in enumerate(prefixes):
        if not isinstance(prefix, str):
            raise TypeError(f"{argument}[{index}] must be a str, got {type_name(prefix)}")
        if not prefix:
            raise ValueError(f"{argument} contains '', with which every name starts")
    return tuple(prefixes)
