"""Cells register, name and list their parameters. Oracle: MindSpore 2.10's nn.Cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindckpt import Parameter, Tensor, load_checkpoint, nn, save_checkpoint


def parameter(name: str | None = None, **kwargs: Any) -> Parameter:
    return Parameter(np.zeros(2, np.float32), name=name, **kwargs)


class Leaf(nn.Cell):
    def __init__(self, name: str | None = "a") -> None:
        super().__init__()
        self.a = parameter(name)


class Net(nn.Cell):
    """A parameter with a name of its own, children, a list of them, and a parameter at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = parameter("w0")
        self.child = Leaf()
        self.child2 = Leaf()
        self.lst = nn.CellList([Leaf(), Leaf()])
        self.u = parameter()


def paths_and_names(net: nn.Cell) -> list[tuple[str, str]]:
    return [(path, found.name) for path, found in net.parameters_and_names()]


CHILDREN = [
    ("child.a", "child.a"),
    ("child2.a", "child2.a"),
    ("lst.0.a", "lst.0.a"),
    ("lst.1.a", "lst.1.a"),
]


def test_own_parameters_come_before_those_of_children() -> None:
    """A parameter keeps the name that it was given; a child's is its path."""
    assert paths_and_names(Net()) == [("weight", "w0"), ("u", "u"), *CHILDREN]


def test_a_tied_parameter_comes_once() -> None:
    net = Net()
    net.again = net.weight
    net.child.again = net.child.a
    assert paths_and_names(net) == [("weight", "w0"), ("u", "u"), *CHILDREN]


def test_a_tied_cell_comes_once() -> None:
    """MindSpore names its parameters after the last path and lists them under the first."""

    class Twice(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.x = self.y = Leaf()

    ((path, _),) = paths_and_names(Twice())
    assert path in ("x.a", "y.a")


def test_a_deleted_parameter_is_gone_and_may_come_back() -> None:
    net = Net()
    del net.u
    assert not hasattr(net, "u")
    assert paths_and_names(net) == [("weight", "w0"), *CHILDREN]
    net.u = parameter("zz")
    assert paths_and_names(net) == [("weight", "w0"), ("u", "zz"), *CHILDREN]


def test_a_deleted_cell_is_gone() -> None:
    net = Net()
    del net.child
    assert [path for path, _ in paths_and_names(net)] == [
        "weight",
        "u",
        "child2.a",
        "lst.0.a",
        "lst.1.a",
    ]
    with pytest.raises(AttributeError):
        del net.child


def test_a_replaced_cell_takes_the_place_of_the_old_one() -> None:
    net = Net()
    new = Leaf()
    net.child = new
    assert paths_and_names(net) == [("weight", "w0"), ("u", "u"), *CHILDREN]
    assert net.child is new


def test_a_parameter_is_not_overwritten_by_something_else() -> None:
    """By mistake, that is: None takes it out, a Tensor sets its data."""
    net = Net()
    with pytest.raises(TypeError, match="weight"):
        net.weight = 5
    net.u = Tensor(np.array([1, 2], np.float32))
    assert net.u.asnumpy().tolist() == [1, 2]
    assert isinstance(net.u, Parameter)
    net.weight = None
    assert paths_and_names(net) == [("u", "u"), *CHILDREN]


def test_attributes_of_other_kinds_are_plain_attributes() -> None:
    net = Net()
    net.size = 5
    net.names = ["a"]
    assert (net.size, net.names) == (5, ["a"])
    assert paths_and_names(net) == [("weight", "w0"), ("u", "u"), *CHILDREN]
    with pytest.raises(AttributeError, match="missing"):
        _ = net.missing


def test_deeper_cells_are_named_by_their_whole_path() -> None:
    class Middle(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.leaf = Leaf(None)

    class Top(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.middle = Middle()

    assert paths_and_names(Top()) == [("middle.leaf.a", "middle.leaf.a")]


def test_trainable_params_are_those_that_require_a_gradient() -> None:
    net = Net()
    net.child.a.requires_grad = False
    assert [found.name for found in net.trainable_params()] == [
        "w0",
        "u",
        "child2.a",
        "lst.0.a",
        "lst.1.a",
    ]
    assert isinstance(net.trainable_params(), list)


def test_parameters_dict_maps_names_to_parameters() -> None:
    net = Net()
    found = net.parameters_dict()
    assert list(found) == ["w0", "u", "child.a", "child2.a", "lst.0.a", "lst.1.a"]
    assert found["child.a"] is net.child.a


def test_get_parameters_lists_them_in_order() -> None:
    net = Net()
    assert list(net.get_parameters()) == [found for _, found in net.parameters_and_names()]


def test_a_cell_list_is_a_list() -> None:
    first, second, third = Leaf(), Leaf(), Leaf()
    cells = nn.CellList([first])
    cells.append(second)
    cells.extend([third])
    assert len(cells) == 3
    assert list(cells) == [first, second, third]
    assert cells[0] is first
    assert cells[-1] is third
    assert [name for name, _ in cells.parameters_and_names()] == ["0.a", "1.a", "2.a"]


@pytest.mark.parametrize(
    "element", [5, None, "cell", Leaf, parameter()], ids=lambda value: type(value).__name__
)
def test_an_element_of_a_cell_list_is_a_cell(element: object) -> None:
    with pytest.raises(TypeError, match="Cell"):
        nn.CellList([Leaf(), element])


def test_a_cell_without_super_init_says_what_is_missing() -> None:
    class Careless(nn.Cell):
        def __init__(self) -> None:
            self.a = parameter()

    with pytest.raises((AttributeError, RuntimeError), match="__init__"):
        Careless()


def test_a_cell_saves_under_the_names_of_its_parameters(tmp_path: Path) -> None:
    """Not under their paths, where the two differ."""
    path = str(tmp_path / "a.ckpt")
    save_checkpoint(Net(), path)
    assert list(load_checkpoint(path)) == ["w0", "u", "child.a", "child2.a", "lst.0.a", "lst.1.a"]


def test_choice_func_sees_the_names_of_a_cells_parameters(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    save_checkpoint(Net(), path, choice_func=lambda name: name.startswith("child"))
    assert list(load_checkpoint(path)) == ["child.a", "child2.a"]


def test_an_empty_cell_saves_an_empty_file(tmp_path: Path) -> None:
    """Oracle: MindSpore, which then cannot load it."""
    save_checkpoint(nn.Cell(), str(tmp_path / "a.ckpt"))
    assert (tmp_path / "a.ckpt").read_bytes() == b""
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        load_checkpoint(str(tmp_path / "a.ckpt"))
