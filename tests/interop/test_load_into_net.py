"""load_param_into_net: ours into real networks, against MindSpore's own into equal ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mindckpt

from . import nets, oracle
from .cases import Stored
from .oracle import ms

nn, Parameter, Tensor = ms.nn, ms.Parameter, ms.Tensor


class Net(nn.Cell):
    """Parameters of given names, types and shapes, with values that tell them apart."""

    def __init__(self, **parameters: tuple[Any, tuple[int, ...]]) -> None:
        """One Parameter for each keyword; two underscores in a keyword are a dot in the name."""
        super().__init__()
        for attribute, (dtype, shape) in parameters.items():
            values = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)
            name = attribute.replace("__", ".")
            setattr(self, attribute, Parameter(Tensor(values, dtype), name=name))


F32_2X3 = (ms.float32, (2, 3))
# What the file holds; what the net holds.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the same": ({"a": F32_2X3, "b": F32_2X3}, {"a": F32_2X3, "b": F32_2X3}),
    "another order": ({"a": F32_2X3, "b": F32_2X3}, {"b": F32_2X3, "a": F32_2X3}),
    "some missing in the file": ({"a": F32_2X3}, {"x": F32_2X3, "a": F32_2X3, "y": F32_2X3}),
    "some missing in the net": ({"x": F32_2X3, "a": F32_2X3, "y": F32_2X3}, {"a": F32_2X3}),
    "nothing in common": ({"a": F32_2X3}, {"b": F32_2X3}),
    "another shape": ({"a": F32_2X3}, {"a": (ms.float32, (3, 2))}),
    "another number of elements": ({"a": F32_2X3}, {"a": (ms.float32, (2, 4))}),
    "trailing ones in the net": ({"a": F32_2X3}, {"a": (ms.float32, (2, 3, 1, 1))}),
    "a 0-d value": ({"a": (ms.float32, ())}, {"a": (ms.float32, ())}),
    "a 0-d value for one element": ({"a": (ms.float32, ())}, {"a": (ms.float32, (1,))}),
    "a longer float": ({"a": (ms.float16, (2, 3))}, {"a": F32_2X3}),
    "a shorter float": ({"a": F32_2X3}, {"a": (ms.float16, (2, 3))}),
    "bfloat16 from float32": ({"a": F32_2X3}, {"a": (ms.bfloat16, (2, 3))}),
    "float32 from bfloat16": ({"a": (ms.bfloat16, (2, 3))}, {"a": F32_2X3}),
    "float64 from float32": ({"a": F32_2X3}, {"a": (ms.float64, (2, 3))}),
    "int64 from int8": ({"a": (ms.int8, (2, 3))}, {"a": (ms.int64, (2, 3))}),
    "int8 from int64": ({"a": (ms.int64, (2, 3))}, {"a": (ms.int8, (2, 3))}),
    "float32 from int32": ({"a": (ms.int32, (2, 3))}, {"a": F32_2X3}),
    "int32 from float32": ({"a": F32_2X3}, {"a": (ms.int32, (2, 3))}),
    "int32 from uint32": ({"a": (ms.uint32, (2, 3))}, {"a": (ms.int32, (2, 3))}),
    "uint8 from int8": ({"a": (ms.int8, (2, 3))}, {"a": (ms.uint8, (2, 3))}),
    "bool from int8": ({"a": (ms.int8, (2, 3))}, {"a": (ms.bool_, (2, 3))}),
    "a prefix in the file": (
        {"backbone__a": F32_2X3, "backbone__b": F32_2X3},
        {"a": F32_2X3, "b": F32_2X3},
    ),
    "a prefix for some": (
        {"a": F32_2X3, "backbone__b": F32_2X3},
        {"a": F32_2X3, "b": F32_2X3, "c": F32_2X3},
    ),
    "two prefixes": (
        {"one__a": F32_2X3, "two__b": F32_2X3},
        {"a": F32_2X3, "b": F32_2X3},
    ),
    "a prefix and another type": ({"backbone__a": F32_2X3}, {"a": (ms.float16, (2, 3))}),
    "a prefix in the net": ({"a": F32_2X3}, {"backbone__a": F32_2X3}),
    "gradients that accumulate": ({"a": F32_2X3}, {"accu_grads__a": F32_2X3, "a": F32_2X3}),
}


@pytest.mark.parametrize("strict_load", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_real_net_takes_what_mindspore_would_put_into_it(
    pair: str, strict_load: bool, tmp_path: Path
) -> None:
    in_file, in_net = PAIRS[pair]
    path = tmp_path / "saved.ckpt"
    oracle.mindspore_saves(Net(**in_file), path, append_dict={"note": "a str"})
    ours, theirs = _zeroed(Net(**in_net)), _zeroed(Net(**in_net))
    assert _outcome(mindckpt, ours, path, strict_load) == _outcome(ms, theirs, path, strict_load)


# What the file holds; what the net holds.
TRAILING_ONES: dict[str, tuple[Any, Any]] = {
    "of a convolution": ((ms.float32, (2, 3, 1, 1)), F32_2X3),
    "in bfloat16": ((ms.bfloat16, (2, 3, 1, 1)), (ms.bfloat16, (2, 3))),
    "and another type": ((ms.float16, (2, 3, 1)), F32_2X3),
    "for a 0-d value": ((ms.float32, (1,)), (ms.float32, ())),
}


@pytest.mark.parametrize("case", TRAILING_ONES)
def test_trailing_ones_put_the_bytes_into_a_real_net_that_mindspore_puts_there(
    case: str, tmp_path: Path
) -> None:
    """But we keep the net's shape; MindSpore says so, and puts the file's shape into the net."""
    in_file, in_net = TRAILING_ONES[case]
    path = tmp_path / "saved.ckpt"
    oracle.mindspore_saves(Net(a=in_file), path)
    ours, theirs = _zeroed(Net(a=in_net)), _zeroed(Net(a=in_net))
    mindckpt.load_checkpoint(str(path), net=ours)
    ms.load_checkpoint(str(path), net=theirs)
    assert bytes(ours.a.get_bytes()) == bytes(theirs.a.get_bytes())
    assert ours.a.dtype == theirs.a.dtype
    assert (ours.a.shape, theirs.a.shape) == (in_net[1], in_file[1])


@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_a_real_net_is_restored_from_our_save_of_it(net: type[Any], tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    saved, restored = net(), _zeroed(net())
    oracle.we_save(saved, path)
    expected = _contents(saved)
    assert _contents(restored) != expected
    assert mindckpt.load_param_into_net(restored, mindckpt.load_checkpoint(str(path))) == ([], [])
    assert _contents(restored) == expected


def test_load_checkpoint_fills_a_real_net_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    saved, restored = nets.LeNet5(), _zeroed(nets.LeNet5())
    oracle.mindspore_saves(saved, path)
    loaded = mindckpt.load_checkpoint(str(path), net=restored)
    assert list(loaded) == [parameter.name for parameter in saved.get_parameters()]
    assert _contents(restored) == _contents(saved)


def test_a_real_net_still_computes_the_same_after_our_restore(tmp_path: Path) -> None:
    path = tmp_path / "dense.ckpt"
    saved, restored = nn.Dense(5, 3), nn.Dense(5, 3)
    batch = Tensor(np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5))
    oracle.we_save(saved, path)
    mindckpt.load_checkpoint(str(path), net=restored)
    assert np.array_equal(saved(batch).asnumpy(), restored(batch).asnumpy())


def test_a_shape_that_does_not_fit_leaves_the_real_net_as_it_was(tmp_path: Path) -> None:
    """MindSpore has put the parameters before it into the net by then; we check them all first."""
    path = tmp_path / "saved.ckpt"
    oracle.mindspore_saves(Net(a=F32_2X3, b=F32_2X3), path)
    net = _zeroed(Net(a=F32_2X3, b=(ms.float32, (7,))))
    before = _contents(net)
    with pytest.raises(RuntimeError, match=r"\bb\b"):
        mindckpt.load_param_into_net(net, mindckpt.load_checkpoint(str(path)))
    assert _contents(net) == before


def _zeroed(net: Any) -> Any:
    for parameter in net.get_parameters():
        zeros = Stored("zeros", str(parameter.dtype), parameter.shape, bytes(parameter.nbytes))
        parameter.set_data(oracle.mindspore_parameter(zeros))
    return net


def _contents(net: Any) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return [
        (p.name, str(p.dtype), tuple(p.shape), bytes(p.get_bytes())) for p in net.get_parameters()
    ]


def _outcome(library: Any, net: Any, path: Path, strict_load: bool) -> Any:
    """What `library` returns and leaves in the net, or the type of its error."""
    try:
        lists = library.load_param_into_net(net, library.load_checkpoint(str(path)), strict_load)
    except (RuntimeError, TypeError, ValueError) as error:
        return type(error)
    return lists, _contents(net)
