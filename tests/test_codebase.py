"""The package as a package: its stub, its imports, its docstrings and their examples."""

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mindckpt
from mindckpt import _core
from support import run_python

PACKAGE = Path(mindckpt.__file__).parent
STUB = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages([str(PACKAGE)], "mindckpt.")
    if found.name != "mindckpt._core"
)
PUBLIC = [
    "CheckpointError",
    "ChecksumError",
    "DecryptionError",
    "Parameter",
    "SaveJob",
    "Tensor",
    "async_ckpt_thread_status",
    "load_checkpoint",
    "load_param_into_net",
    "nn",
    "remove_leftovers",
    "save_checkpoint",
]


# ---- the stub of the compiled module


def stubbed_functions() -> dict[str, ast.FunctionDef]:
    """Functions and methods of the stub by their dotted names; properties are left out."""
    found: dict[str, ast.FunctionDef] = {}
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.decorator_list:
                    found[f"{node.name}.{member.name}"] = member
    return found


def stubbed_names() -> set[str]:
    """What the module offers at run time, says the stub: aliases and TypedDicts left out."""
    names = set()
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            if not any(
                isinstance(base, ast.Name) and base.id == "TypedDict" for base in node.bases
            ):
                names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            names.add(node.target.id)
    return names


def arguments_of(node: ast.FunctionDef) -> list[tuple[str, str, bool]]:
    """Name, kind and whether there is a default, of every argument but self."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [False] * (len(positional) - len(arguments.defaults)) + [True] * len(
        arguments.defaults
    )
    found = [
        (a.arg, "positional", default) for a, default in zip(positional, defaults, strict=True)
    ]
    for argument, default_value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append((argument.arg, "keyword", default_value is not None))
    return [row for row in found if row[0] != "self"]


def compiled(dotted: str) -> ast.FunctionDef:
    """The signature that pybind11 wrote at the head of a docstring, parsed."""
    value: Any = _core
    for part in dotted.split("."):
        value = getattr(value, part)
    line = (value.__doc__ or "").strip().splitlines()[0]
    # Types are for people here: only names, kinds and defaults are compared.
    (node,) = ast.parse(f"def {line}: ...").body
    assert isinstance(node, ast.FunctionDef)
    return node


def test_the_stub_lists_what_the_compiled_module_offers() -> None:
    offered = {name for name in vars(_core) if not name.startswith("_")} | {"__version__"}
    assert offered == stubbed_names()


@pytest.mark.parametrize("dotted", stubbed_functions())
def test_the_stub_has_the_signatures_of_the_compiled_module(dotted: str) -> None:
    assert arguments_of(stubbed_functions()[dotted]) == arguments_of(compiled(dotted))


@pytest.mark.parametrize(
    "node",
    [node for node in STUB.body if isinstance(node, ast.ClassDef)],
    ids=lambda node: node.name,
)
def test_the_stub_has_the_members_of_the_compiled_classes(node: ast.ClassDef) -> None:
    if node.name not in stubbed_names():
        return  # a TypedDict, which test_save_stats_have_the_keys_of_the_stub looks at
    stubbed = {member.name for member in node.body if isinstance(member, ast.FunctionDef)} - {
        "__init__"
    }
    members = {name for name in vars(getattr(_core, node.name)) if not name.startswith("_")}
    assert members == stubbed


def test_save_stats_have_the_keys_of_the_stub(tmp_path: Path) -> None:
    (node,) = (
        node for node in STUB.body if isinstance(node, ast.ClassDef) and node.name == "SaveStats"
    )
    keys = {
        a.target.id: ast.unparse(a.annotation) for a in node.body if isinstance(a, ast.AnnAssign)
    }
    job = mindckpt.save_checkpoint({"w": np.zeros(3)}, str(tmp_path / "a.ckpt"), async_save=True)
    assert job is not None
    assert {key: type(value).__name__ for key, value in job.result().items()} == keys


# ---- importing


def test_importing_starts_no_thread_and_imports_no_framework() -> None:
    """Even where frameworks are installed."""
    code = """
import os, sys
import numpy, ml_dtypes  # NumPy's own threads are not ours
before = set(os.listdir("/proc/self/task"))
import mindckpt, mindckpt.nn, mindckpt.dtypes
assert set(os.listdir("/proc/self/task")) == before
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "jax", "mindspore", "cupy", "tensorflow", "numba", "tqdm"}, loaded
"""
    run_python(code)


def test_importing_reads_no_environment_and_writes_nothing(tmp_path: Path) -> None:
    """Not a byte on either stream, in an empty folder that stays empty."""
    done = run_python(f"import os; os.chdir({str(tmp_path)!r}); import mindckpt")
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_by_itself(name: str) -> None:
    """No hidden order between them."""
    run_python(f"import {name}")


# ---- names and docstrings


def test_the_package_offers_what_is_documented() -> None:
    assert set(PUBLIC) <= set(mindckpt.__all__)
    assert len(set(mindckpt.__all__)) == len(mindckpt.__all__)
    for name in mindckpt.__all__:
        assert hasattr(mindckpt, name), name


def test_the_version_is_the_one_of_the_distribution() -> None:
    assert mindckpt.__version__ == _core.__version__ == importlib.metadata.version("mindckpt")


def test_the_package_is_typed() -> None:
    """PEP 561: the marker travels with the package."""
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


def test_signatures_are_mindspores_with_our_keywords_behind() -> None:
    """Oracle: the signatures of MindSpore's documentation."""
    assert [
        (p.name, p.default) for p in inspect.signature(mindckpt.save_checkpoint).parameters.values()
    ] == [
        ("save_obj", inspect.Parameter.empty),
        ("ckpt_file_name", inspect.Parameter.empty),
        ("integrated_save", True),
        ("async_save", False),
        ("append_dict", None),
        ("enc_key", None),
        ("enc_mode", "AES-GCM"),
        ("choice_func", None),
        ("kwargs", inspect.Parameter.empty),
    ]
    assert [
        (p.name, p.default) for p in inspect.signature(mindckpt.load_checkpoint).parameters.values()
    ] == [
        ("ckpt_file_name", inspect.Parameter.empty),
        ("net", None),
        ("strict_load", False),
        ("filter_prefix", None),
        ("dec_key", None),
        ("dec_mode", "AES-GCM"),
        ("specify_prefix", None),
        ("choice_func", None),
        ("crc_check", None),  # False in MindSpore: a trailer that is there is verified
        ("kwargs", inspect.Parameter.empty),
    ]
    assert [
        (p.name, p.default)
        for p in inspect.signature(mindckpt.load_param_into_net).parameters.values()
    ] == [
        ("net", inspect.Parameter.empty),
        ("parameter_dict", inspect.Parameter.empty),
        ("strict_load", False),
    ]


def documented(owner: ModuleType | type) -> list[tuple[str, Any]]:
    """Public functions, classes, methods and properties below a module or class."""
    found = []
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        value = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isfunction(value) or isinstance(value, property):
            found.append((name, value))
        elif inspect.isclass(value) and value.__module__.startswith("mindckpt"):
            found += [(name, value), *((f"{name}.{inner}", v) for inner, v in documented(value))]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, name
    for dotted, value in documented(module):
        overloaded = inspect.isfunction(value) and value.__module__ == "typing"
        assert inspect.getdoc(value) or overloaded, f"{name}.{dotted}"


@pytest.mark.parametrize(
    "argument", ["crc_check", "durable", "num_threads", "block_bytes", "progress"]
)
def test_every_keyword_of_ours_is_in_the_docstring_of_save_checkpoint(argument: str) -> None:
    assert re.search(rf"\b{argument}\b", mindckpt.save_checkpoint.__doc__ or "")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of their own."""
    monkeypatch.chdir(tmp_path)
    public = {key: getattr(mindckpt, key) for key in mindckpt.__all__}
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"np": np, **public, **vars(module)})
    assert results.failed == 0


def test_the_three_calls_have_examples() -> None:
    """Guards the test above: it would pass without any."""
    finder = doctest.DocTestFinder()
    for function in (
        mindckpt.save_checkpoint,
        mindckpt.load_checkpoint,
        mindckpt.load_param_into_net,
    ):
        assert any(test.examples for test in finder.find(function)), function.__name__
