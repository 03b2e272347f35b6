"""Cells: nets as containers of named parameters. Nothing here computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, overload

import numpy as np

from mindckpt.arrays import type_name
from mindckpt.parameter import Parameter, Tensor

__all__ = ["Cell", "CellList"]


class Cell:
    """A net, or a part of one: its attributes that are Parameters or Cells register themselves.

    Names are given as MindSpore gives them. A Parameter without a name takes its attribute's. A
    Cell that becomes an attribute renames every parameter inside to its attribute path,
    `fc1.weight`, whatever it was called before; a nameless parameter that is registered inside it
    later on is named by its path too. Assigning a Tensor to a Parameter's attribute, or an array
    such as an operator makes of one, sets the data; assigning None takes the parameter out.

    Subclasses call `super().__init__()` before they assign anything.

    Example:
        >>> import numpy as np
        >>> from mindckpt import Parameter
        >>> from mindckpt.nn import Cell
        >>> class Dense(Cell):
        ...     def __init__(self, n_in, n_out):
        ...         super().__init__()
        ...         self.weight = Parameter(np.zeros((n_out, n_in), np.float32))
        ...         self.bias = Parameter(np.zeros(n_out, np.float32))
        >>> class Net(Cell):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = Dense(3, 2)
        >>> Net().trainable_params()[0]
        Parameter (name=fc.weight, shape=(2, 3), dtype=Float32, requires_grad=True)
    """

    _params: dict[str, Parameter | None]
    _cells: dict[str, Cell | None]
    _prefix: str  # what precedes the names of its own parameters: '' or 'path.to.it.'

    def __init__(self) -> None:
        object.__setattr__(self, "_params", {})
        object.__setattr__(self, "_cells", {})
        object.__setattr__(self, "_prefix", "")

    def __getattr__(self, name: str) -> Any:
        # Python asks only for what __dict__ lacks: parameters and cells, which the registries have.
        for registry in ("_params", "_cells"):
            members = self.__dict__.get(registry, {})
            if name in members:
                return members[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, Parameter):
            self._register(self._members("_params"), name, value)
            if value.has_generated_name:
                value.name = self._prefix + name
        elif isinstance(value, Cell):
            self._register(self._members("_cells"), name, value)
            value._rename(f"{self._prefix}{name}.", set())
        elif name in self.__dict__.get("_params", ()):
            self._reassign_parameter(name, value)
        elif name in self.__dict__.get("_cells", ()):
            if value is not None:
                raise TypeError(f"{name} is a Cell and can't become {type_name(value)}")
            self._cells[name] = None
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for registry in ("_params", "_cells"):
            members = self.__dict__.get(registry, {})
            if name in members:
                del members[name]
                return
        object.__delattr__(self, name)

    def parameters_and_names(
        self, name_prefix: str = "", expand: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its attribute path, in the order of registration.

        A Cell's own parameters come before those of the Cells in it; a tied parameter comes once,
        under the first of its paths.

        Args:
            name_prefix: A path to put before each, without the dot at its end.
            expand: Whether to go into the Cells inside.
        """
        seen: set[int] = set()
        for path, cell in self.cells_and_names(name_prefix) if expand else [(name_prefix, self)]:
            prefix = f"{path}." if path else ""
            for name, parameter in cell._params.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield prefix + name, parameter

    def cells_and_names(self, name_prefix: str = "") -> Iterator[tuple[str, Cell]]:
        """This Cell and every Cell inside with its path, parents first, each Cell once."""
        yield from self._walk(name_prefix, set())

    def get_parameters(self, expand: bool = True) -> Iterator[Parameter]:
        """Every parameter, in the order of `parameters_and_names`."""
        for _, parameter in self.parameters_and_names(expand=expand):
            yield parameter

    def trainable_params(self, recurse: bool = True) -> list[Parameter]:
        """The parameters whose `requires_grad` is True."""
        return [p for p in self.get_parameters(expand=recurse) if p.requires_grad]

    def parameters_dict(self, recurse: bool = True) -> dict[str, Parameter]:
        """Every parameter by its name, which is what a checkpoint calls it, not always its path."""
        return {p.name: p for p in self.get_parameters(expand=recurse)}

    def __repr__(self) -> str:
        lines = [f"({name}): {cell!r}" for name, cell in self._cells.items()]
        if not lines:
            return f"{type(self).__name__}()"
        body = "\n".join(lines).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"

    def _members(self, registry: str) -> dict[str, Any]:
        try:
            members: dict[str, Any] = self.__dict__[registry]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__}.__init__ must call super().__init__() before it assigns "
                "parameters and cells"
            ) from None
        return members

    def _register(self, members: dict[str, Any], name: str, value: Parameter | Cell) -> None:
        if not name or "." in name:
            raise ValueError(
                f"a parameter or cell can't be called {name!r}: its name is part of a path"
            )
        taken = name in self._params or name in self._cells or hasattr(type(self), name)
        if taken and name not in members:
            raise TypeError(f"{name} is there already and can't become a {type_name(value)}")
        self.__dict__.pop(name, None)
        members[name] = value

    def _reassign_parameter(self, name: str, value: object) -> None:
        parameter = self._params[name]
        if value is None:
            self._params[name] = None
        elif isinstance(value, (Tensor, np.ndarray, np.generic)) and parameter is not None:
            parameter.set_data(value)  # NumPy's is what operators make of Parameters
        else:
            raise TypeError(f"{name} is a Parameter and can't become {type_name(value)}")

    def _rename(self, prefix: str, seen: set[int]) -> None:
        """Name everything inside by its path below `prefix`, the first path of what comes twice."""
        if id(self) in seen:
            return
        seen.add(id(self))
        object.__setattr__(self, "_prefix", prefix)
        for name, parameter in self._params.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                parameter.name = prefix + name
        for name, cell in self._cells.items():
            if cell is not None:
                cell._rename(f"{prefix}{name}.", seen)

    def _walk(self, path: str, seen: set[int]) -> Iterator[tuple[str, Cell]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield path, self
        prefix = f"{path}." if path else ""
        for name, cell in self._cells.items():
            if cell is not None:
                yield from cell._walk(prefix + name, seen)


class CellList(Cell):
    """A list of Cells, whose paths are their positions: `layers.0.weight`.

    Args:
        cells: The first elements.

    Raises:
        TypeError: An element is not a Cell.
    """

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        super().__init__()
        self.extend(cells)

    def append(self, cell: Cell) -> CellList:
        """Add a Cell at the end, and return the list."""
        return self.extend((cell,))

    def extend(self, cells: Iterable[Cell]) -> CellList:
        """Add Cells at the end, and return the list."""
        self._renew([*self, *cells])
        return self

    def insert(self, index: int, cell: Cell) -> None:
        """Put a Cell before the position `index`; those after it are renamed."""
        cells = list(self)
        cells.insert(index, cell)
        self._renew(cells)

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter([cell for cell in self._cells.values() if cell is not None])

    @overload
    def __getitem__(self, index: int) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cell]: ...
    def __getitem__(self, index: int | slice) -> Cell | list[Cell]:
        return list(self)[index]

    def __setitem__(self, index: int, cell: Cell) -> None:
        cells = list(self)
        cells[index] = cell
        self._renew(cells)

    def __delitem__(self, index: int | slice) -> None:
        cells = list(self)
        del cells[index]
        self._renew(cells)

    def _renew(self, cells: list[Cell]) -> None:
        for cell in cells:
            if not isinstance(cell, Cell):
                raise TypeError(f"an element of a CellList must be a Cell, got {type_name(cell)}")
        object.__setattr__(self, "_cells", {str(index): cell for index, cell in enumerate(cells)})
        self._rename(self._prefix, set())
