"""Our load_checkpoint beside MindSpore's, on the same files with the same arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mindckpt

from . import nets, oracle
from .cases import CRC, Protection
from .oracle import ms

SELECTIONS: dict[str, dict[str, Any]] = {
    "everything": {},
    "choice_func": {"choice_func": lambda name: name.endswith("weight")},
    "choice_func of truth values": {"choice_func": lambda name: name.count("fc")},
    "choice_func of nothing": {"choice_func": lambda name: False},
    "specify_prefix": {"specify_prefix": "conv"},
    "specify_prefix list": {"specify_prefix": ["fc3", "conv1.w"]},
    "specify_prefix tuple": {"specify_prefix": ("fc", "note")},
    "specify_prefix of nothing": {"specify_prefix": "weight"},
    "filter_prefix": {"filter_prefix": "fc"},
    "filter_prefix list": {"filter_prefix": ["fc1.bias", "conv2"]},
    "filter_prefix of everything": {"filter_prefix": ["conv", "fc", "note", "epoch"]},
    "both prefixes": {"specify_prefix": "fc", "filter_prefix": ["fc1", "fc2.weight"]},
    "both prefixes, nothing left": {"specify_prefix": "fc1", "filter_prefix": "fc"},
    "a prefix beats choice_func": {"specify_prefix": "fc", "choice_func": lambda name: False},
    "a filter beats choice_func": {"filter_prefix": "fc", "choice_func": lambda name: False},
    "an empty prefix": {"specify_prefix": ""},
    "an empty list of prefixes": {"filter_prefix": []},
    "an empty prefix in a list": {"filter_prefix": ["fc", ""]},
    "a number as prefix": {"specify_prefix": 3},
    "a number in a list": {"filter_prefix": ["fc", 3]},
    "a set of prefixes": {"specify_prefix": {"fc"}},
}
FILES = [Protection(), CRC, Protection(mode="AES-GCM", key_bytes=16)]


@pytest.fixture(scope="module")
def lenet_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Protection, Path]:
    """LeNet5 with an appended str and number, as MindSpore saves it, once for each protection."""
    folder = tmp_path_factory.mktemp("lenet")
    files = {protection: folder / f"{protection}.ckpt" for protection in FILES}
    net = nets.LeNet5()
    for protection, path in files.items():
        append_dict = {"note": "a str", "epoch": 3}
        oracle.mindspore_saves(net, path, append_dict=append_dict, **protection.save_options)
    return files


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("protection", FILES, ids=str)
def test_a_selection_loads_what_mindspore_loads_or_fails_as_it_does(
    protection: Protection, selection: str, lenet_files: dict[Protection, Path]
) -> None:
    path = lenet_files[protection]
    options = SELECTIONS[selection] | protection.load_options
    try:
        theirs = oracle.mindspore_loads(path, **options)
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            mindckpt.load_checkpoint(str(path), **options)
    else:
        assert oracle.we_load(path, **options) == theirs


@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_what_we_load_prints_as_what_mindspore_loads(net: type[Any], tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    oracle.mindspore_saves(net(), path, append_dict={"note": "a str", "lr": 0.5, "step": 2**63})
    assert repr(mindckpt.load_checkpoint(str(path))) == repr(ms.load_checkpoint(str(path)))


@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_what_we_load_goes_into_numpy_as_mindspores_asnumpy(net: type[Any], tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    oracle.mindspore_saves(net(), path)
    ours = mindckpt.load_checkpoint(str(path))
    for name, theirs in ms.load_checkpoint(str(path)).items():
        expected = theirs.float() if theirs.dtype == ms.bfloat16 else theirs
        actual = ours[name].asnumpy().astype(expected.asnumpy().dtype)
        assert (actual == expected.asnumpy()).all(), name


@pytest.mark.parametrize("name", [" padded ", "\ttab", "end\n", "in side", "x.__param_key__7"])
def test_odd_names_load_under_the_key_and_the_name_that_mindspore_gives_them(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "names.ckpt"
    tensors = [{"name": n, "data": ms.Tensor([1.0])} for n in (name, "last")]
    oracle.mindspore_saves(tensors, path)
    theirs = [(key, value.name) for key, value in ms.load_checkpoint(str(path)).items()]
    ours = [(key, value.name) for key, value in mindckpt.load_checkpoint(str(path)).items()]
    assert ours == theirs


@pytest.mark.parametrize("protection", FILES[1:], ids=str)
def test_a_flipped_bit_is_an_error_to_mindspore_and_to_us(
    protection: Protection, tmp_path: Path
) -> None:
    path = tmp_path / "flipped.ckpt"
    oracle.mindspore_saves(nets.LeNet5(), path, **protection.save_options)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    flipped = tmp_path / "flipped2.ckpt"
    flipped.write_bytes(data)
    with pytest.raises(ValueError, match="Failed to read the checkpoint file"):
        ms.load_checkpoint(str(flipped), **protection.load_options)
    with pytest.raises(mindckpt.CheckpointError):
        mindckpt.load_checkpoint(str(flipped), **protection.load_options)
