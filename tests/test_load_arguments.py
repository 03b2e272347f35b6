"""Every wrong argument of load_checkpoint and load_param_into_net. Oracle: MindSpore 2.10."""

import errno
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindckpt import (
    CheckpointError,
    ChecksumError,
    DecryptionError,
    Parameter,
    Tensor,
    load_checkpoint,
    load_param_into_net,
    nn,
    save_checkpoint,
)
from support import (
    AVAILABLE_MODES,
    MODES,
    assert_silent_about,
    everything_said,
    needs_sm4,
    run_python,
    shown,
)

KEY = bytes(range(150, 166))
VALUE = np.array([0, 1], np.float32)


@dataclass(frozen=True)
class Files:
    """Sound files of one parameter `w`."""

    plain: str
    crc: str
    sealed: dict[str, str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("good")
    sealed = {mode: str(folder / f"{mode}.ckpt") for mode in AVAILABLE_MODES}
    made = Files(str(folder / "good.ckpt"), str(folder / "crc.ckpt"), sealed)
    save_checkpoint({"w": VALUE}, made.plain)
    save_checkpoint({"w": VALUE}, made.crc, crc_check=True)
    for mode, path in sealed.items():
        save_checkpoint({"w": VALUE}, path, enc_key=KEY, enc_mode=mode)
    return made


class Net(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.w = Parameter(np.zeros(2, np.float32), name="w")


def refused(
    error: type[BaseException] | tuple[type[BaseException], ...],
    match: str,
    *args: Any,
    **kwargs: Any,
) -> str:
    """Check that load_checkpoint refuses; returns all that it said."""
    with pytest.raises(error, match=match) as caught:
        load_checkpoint(*args, **kwargs)
    return everything_said(caught.value)


# ---- ckpt_file_name


@pytest.mark.parametrize(
    "name", [None, 5, b"good.ckpt", ["good.ckpt"], io.BytesIO(b"")], ids=lambda v: type(v).__name__
)
def test_a_file_name_that_is_no_str_is_a_type_error(name: object) -> None:
    refused(TypeError, "ckpt_file_name", name)


def test_a_path_object_will_do(files: Files) -> None:
    """An addition: MindSpore takes str alone."""
    assert list(load_checkpoint(Path(files.plain))) == ["w"]


@pytest.mark.parametrize(
    "name", ["", "good", "good.bin", "good.ckpt.gz", "good.safetensors", "good.CKPT"]
)
def test_a_name_that_does_not_end_with_ckpt_is_a_value_error(
    tmp_path: Path, files: Files, name: str
) -> None:
    """The file is there, all the same."""
    if name:
        shutil.copy(files.plain, tmp_path / name)
    refused(ValueError, "ckpt", str(tmp_path / name) if name else "")


def test_a_name_may_end_with_ckpt_without_a_dot(tmp_path: Path, files: Files) -> None:
    shutil.copy(files.plain, tmp_path / "goodckpt")
    assert list(load_checkpoint(str(tmp_path / "goodckpt"))) == ["w"]


def test_a_file_that_the_system_does_not_show_is_an_os_error(tmp_path: Path) -> None:
    """It is not said to be missing, as nobody knows."""
    (tmp_path / "a.ckpt").symlink_to("a.ckpt")
    with pytest.raises(OSError, match="symbolic links") as caught:
        load_checkpoint(tmp_path / "a.ckpt")
    assert caught.value.errno == errno.ELOOP


def test_a_missing_file_is_a_value_error_that_names_it(tmp_path: Path) -> None:
    refused(ValueError, "nope.ckpt", str(tmp_path / "nope.ckpt"))


def test_a_folder_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "dir.ckpt").mkdir()
    refused(ValueError, "dir.ckpt", str(tmp_path / "dir.ckpt"))


@pytest.mark.parametrize("make", ["os.mkfifo(path)", "os.symlink('/dev/zero', path)"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, make: str) -> None:
    """Opening a pipe waits for its writer; a device never ends."""
    code = f"""
import os, sys
from mindckpt import load_checkpoint
path = sys.argv[1]
{make}
try:
    load_checkpoint(path)
except (ValueError, OSError) as error:
    assert "a.ckpt" in str(error), error
else:
    sys.exit("it was loaded")
"""
    run_python(code, tmp_path / "a.ckpt", timeout=60)


def test_an_empty_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "zero.ckpt").touch()
    refused(CheckpointError, "ckpt", str(tmp_path / "zero.ckpt"))


def test_a_nul_in_a_file_name_is_a_value_error(tmp_path: Path) -> None:
    refused(ValueError, "ckpt_file_name", f"{tmp_path}/a\0b.ckpt")


# ---- format, kwargs


@pytest.mark.parametrize("value", ["safetensors", "foo", "", None, 5])
def test_a_format_but_ckpt_is_refused(files: Files, value: object) -> None:
    refused((TypeError, ValueError), "format", files.plain, format=value)


@pytest.mark.parametrize("name", ["foo", "key", "enc_key", "crc"])
def test_an_unknown_keyword_is_a_type_error_that_names_it(files: Files, name: str) -> None:
    refused(TypeError, name, files.plain, **{name: None})


@pytest.mark.parametrize("name", ["crc_check", "mmap"])
@pytest.mark.parametrize("value", [1, 0, None, "True", np.bool_(True)])
def test_a_switch_is_a_bool(files: Files, name: str, value: object) -> None:
    """Only crc_check may be None: the default, which is for the file to tell."""
    if (name, value) == ("crc_check", None):
        assert list(load_checkpoint(files.plain, crc_check=None)) == ["w"]
        return
    refused(TypeError, name, files.plain, **{name: value})


@pytest.mark.parametrize("value", [1, "a"])
def test_remove_redundancy_is_a_bool(files: Files, value: object) -> None:
    refused((TypeError, ValueError), "remove_redundancy", files.plain, remove_redundancy=value)


@pytest.mark.parametrize("value", [0, -1])
def test_num_threads_is_at_least_one(files: Files, value: int) -> None:
    refused(ValueError, "num_threads", files.plain, num_threads=value)


@pytest.mark.parametrize("value", ["2", 1.5, [1]])
def test_num_threads_is_an_int(files: Files, value: object) -> None:
    refused(TypeError, "num_threads", files.plain, num_threads=value)


@pytest.mark.parametrize(
    "kwargs",
    [{"format": "ckpt"}, {"remove_redundancy": True}, {"num_threads": None}, {"num_threads": 3}],
    ids=str,
)
def test_a_keyword_without_meaning_here_changes_nothing(
    files: Files, kwargs: dict[str, Any]
) -> None:
    assert load_checkpoint(files.plain, **kwargs)["w"].asnumpy().tolist() == [0, 1]


# ---- dec_key, dec_mode


@pytest.mark.parametrize("mode", MODES)
def test_an_encrypted_file_without_a_key_is_a_checkpoint_error(files: Files, mode: str) -> None:
    refused(CheckpointError, "ckpt", files.sealed[mode])


@pytest.mark.parametrize("mode", MODES)
def test_a_plain_file_with_a_key_is_a_checkpoint_error(files: Files, mode: str) -> None:
    said = refused(CheckpointError, "ckpt", files.plain, dec_key=KEY, dec_mode=mode)
    assert_silent_about(KEY, said)


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_key_is_refused_and_not_shown(files: Files, mode: str) -> None:
    """In CBC one wrong key in 256 yields sound padding, and then nonsense for records."""
    error = DecryptionError if mode == "AES-GCM" else CheckpointError
    for i in range(16):
        wrong = bytearray(KEY)
        wrong[i] ^= 1
        said = refused(error, "ckpt", files.sealed[mode], dec_key=bytes(wrong), dec_mode=mode)
        assert_silent_about(bytes(wrong), said)


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_mode_is_a_checkpoint_error(files: Files, mode: str) -> None:
    for other in AVAILABLE_MODES:
        if other != mode:
            said = refused(CheckpointError, "ckpt", files.sealed[mode], dec_key=KEY, dec_mode=other)
            assert_silent_about(KEY, said)


def test_a_longer_key_than_the_files_is_a_decryption_error(files: Files) -> None:
    refused(DecryptionError, "ckpt", files.sealed["AES-GCM"], dec_key=KEY + bytes(8))


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31, 33])
def test_a_key_of_another_length_is_a_value_error_that_does_not_show_it(
    files: Files, length: int
) -> None:
    key = bytes(range(180, 180 + length))
    said = refused(ValueError, "dec_key.*16.*24.*32", files.sealed["AES-GCM"], dec_key=key)
    assert_silent_about(key, said)


@needs_sm4
@pytest.mark.parametrize("length", [0, 15, 24, 32])
def test_an_sm4_key_has_16_bytes(files: Files, length: int) -> None:
    refused(
        ValueError,
        "dec_key.*16",
        files.sealed["SM4-CBC"],
        dec_key=bytes(length),
        dec_mode="SM4-CBC",
    )


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda key: key.decode("latin-1"), list])
def test_a_key_that_is_not_bytes_is_a_type_error_that_does_not_show_it(
    files: Files, kind: Any
) -> None:
    assert_silent_about(
        KEY, refused(TypeError, "dec_key", files.sealed["AES-GCM"], dec_key=kind(KEY))
    )


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("mode", [5, None, b"AES-GCM"])
def test_dec_mode_is_a_str_with_and_without_a_key(
    files: Files, mode: object, key: bytes | None
) -> None:
    refused(TypeError, "dec_mode", files.plain, dec_mode=mode, dec_key=key)


@pytest.mark.parametrize("mode", ["FOO", "aes-gcm", ""])
def test_an_unknown_dec_mode_with_a_key_is_a_value_error(files: Files, mode: str) -> None:
    said = refused(ValueError, "dec_mode", files.sealed["AES-GCM"], dec_mode=mode, dec_key=KEY)
    assert_silent_about(KEY, said)


def test_an_unknown_dec_mode_without_a_key_is_not_looked_at(files: Files) -> None:
    """As in MindSpore."""
    assert list(load_checkpoint(files.plain, dec_mode="FOO")) == ["w"]


def test_an_encrypted_file_cannot_be_mapped(files: Files) -> None:
    said = refused(ValueError, "mmap", files.sealed["AES-GCM"], dec_key=KEY, mmap=True)
    assert_silent_about(KEY, said)


# ---- crc_check


def test_crc_check_needs_a_trailer(files: Files) -> None:
    """MindSpore warns and loads."""
    refused(ChecksumError, "ckpt", files.plain, crc_check=True)


def test_a_trailer_may_go_unchecked(files: Files) -> None:
    assert list(load_checkpoint(files.crc, crc_check=False)) == ["w"]
    assert list(load_checkpoint(files.crc, crc_check=True)) == ["w"]


# ---- selection


@pytest.mark.parametrize("name", ["specify_prefix", "filter_prefix"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5, TypeError),
        (b"w", TypeError),
        ({"w"}, TypeError),
        ({"w": 1}, TypeError),
        ([1], TypeError),
        (["w", None], TypeError),
        ((b"w",), TypeError),
        ("", ValueError),
        ([], ValueError),
        ((), ValueError),
        ([""], ValueError),
        (["w", ""], ValueError),
    ],
)
def test_a_prefix_is_a_str_or_a_list_of_them_and_never_empty(
    files: Files, name: str, value: object, error: type[Exception]
) -> None:
    refused(error, "prefix", files.plain, **{name: value})


@pytest.mark.parametrize("value", [5, "w", False, ["w"]])
def test_choice_func_is_callable(files: Files, value: object) -> None:
    refused(TypeError, "choice_func", files.plain, choice_func=value)


def test_an_error_in_choice_func_comes_through(files: Files) -> None:
    """MindSpore makes it a ValueError."""
    with pytest.raises((ZeroDivisionError, ValueError), match="division"):
        load_checkpoint(files.plain, choice_func=lambda name: 1 / 0)


@pytest.mark.parametrize(
    "kwargs",
    [{"choice_func": lambda name: False}, {"filter_prefix": "w"}, {"specify_prefix": "x"}],
    ids=shown,
)
def test_a_selection_of_nothing_is_a_value_error(files: Files, kwargs: dict[str, Any]) -> None:
    """As in MindSpore."""
    refused(ValueError, "ckpt", files.plain, **kwargs)


# ---- net, strict_load


@pytest.mark.parametrize("value", [1, None, "True", np.bool_(True)])
def test_strict_load_is_a_bool(files: Files, value: object) -> None:
    refused(TypeError, "strict_load", files.plain, Net(), strict_load=value)
    with pytest.raises(TypeError, match="strict_load"):
        load_param_into_net(Net(), load_checkpoint(files.plain), strict_load=value)


@pytest.mark.parametrize(
    "net", [5, "net", Net, {"w": VALUE}, [Parameter(VALUE, name="w")]], ids=str
)
def test_a_net_is_a_cell(files: Files, net: object) -> None:
    refused(TypeError, "net", files.plain, net)
    with pytest.raises(TypeError, match="net"):
        load_param_into_net(net, load_checkpoint(files.plain))


@pytest.mark.parametrize(
    "parameters", [None, 5, [Parameter(VALUE, name="w")], "w", {("w", Parameter(VALUE))}], ids=str
)
def test_parameter_dict_is_a_dict(parameters: object) -> None:
    with pytest.raises(TypeError, match="parameter_dict"):
        load_param_into_net(Net(), parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {5: Parameter(VALUE, name="w")},
        {None: "text"},
        {"w": 5},
        {"w": VALUE},
        {"w": Tensor(VALUE)},
        {"w": None},
    ],
    ids=str,
)
def test_parameter_dict_maps_names_to_parameters(parameters: Any) -> None:
    """As in MindSpore: nothing else, not even a tensor."""
    net = Net()
    with pytest.raises(TypeError, match="parameter_dict"):
        load_param_into_net(net, parameters)
    assert net.w.asnumpy().tolist() == [0, 0]
