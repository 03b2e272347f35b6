"""Every wrong argument of save_checkpoint. Oracle: MindSpore 2.10; we are at least as strict.

A refusal names the argument, tells nothing of a key, writes nothing, and leaves an old file alone.
"""

import array
import enum
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mindckpt import Parameter, Tensor, load_checkpoint, nn, save_checkpoint
from support import AVAILABLE_MODES, MODES, assert_silent_about, everything_said, needs_sm4

GOOD = {"w": np.array([0, 1], np.float32)}

VALUE = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


class Refusals:
    """Calls save_checkpoint where it must refuse, over an old file and beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old = folder / "old.ckpt"
        save_checkpoint({"old": np.arange(5)}, str(self.old))

    def state(self) -> list[tuple[str, int, int, int, bytes]]:
        return sorted(
            (
                path.name,
                path.stat().st_ino,
                path.stat().st_mtime_ns,
                path.stat().st_mode,
                path.read_bytes(),
            )
            for path in self.folder.iterdir()
        )

    def expect(
        self,
        error: type[BaseException] | tuple[type[BaseException], ...],
        match: str,
        save_obj: object,
        **kwargs: Any,
    ) -> str:
        """Check the refusal; returns all that it said."""
        before = self.state()
        said = ""
        for name in ("old.ckpt", "new.ckpt"):
            with pytest.raises(error, match=match) as caught:
                save_checkpoint(save_obj, str(self.folder / name), **kwargs)
            said += everything_said(caught.value)
        assert self.state() == before
        return said


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    return Refusals(tmp_path)


def name_as_generator() -> Iterator[Parameter]:
    yield Parameter(np.zeros(1, np.float32), name="w")


class Untouchable:
    """Looks like an array to every protocol, and must not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the array was touched: {name}")


# ---- save_obj


@pytest.mark.parametrize(
    "save_obj",
    [
        None,
        5,
        "w",
        b"w",
        (Parameter(np.zeros(1, np.float32), name="w"),),
        {1.0},
        np.zeros(2),
        Tensor(np.zeros(2)),
        Parameter(np.zeros(2), name="w"),
        name_as_generator(),
        nn.Cell,
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_save_obj_of_another_type_is_a_type_error(refusals: Refusals, save_obj: object) -> None:
    refusals.expect(TypeError, "save_obj", save_obj)


def test_an_ordered_dict_is_a_dict(tmp_path: Path) -> None:
    save_checkpoint(OrderedDict(GOOD), str(tmp_path / "a.ckpt"))
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"))) == ["w"]


@pytest.mark.parametrize(
    ("save_obj", "named"),
    [
        ([Tensor(np.zeros(1))], "Tensor"),
        ([np.zeros(1)], "ndarray"),
        ([1], "int"),
        ([None], "NoneType"),
        (["w"], "str"),
        ([Parameter(np.zeros(1), name="a"), {"name": "b", "data": np.zeros(1)}], "dict"),
        ([{"name": "b", "data": np.zeros(1)}, Parameter(np.zeros(1), name="a")], "Parameter"),
        ([{"name": "a"}], "data"),
        ([{"data": np.zeros(1)}], "name"),
        ([{}], "name"),
        ([{"name": "a", "data": np.zeros(1)}, {"name": "b"}], "data"),
        ([{"name": 5, "data": np.zeros(1)}], "int"),
        ([{"name": b"a", "data": np.zeros(1)}], "bytes"),
        ([{"name": None, "data": np.zeros(1)}], "NoneType"),
    ],
)
def test_a_list_holds_parameters_or_named_data_alone(
    refusals: Refusals, save_obj: object, named: str
) -> None:
    refusals.expect(TypeError, named, save_obj)


@pytest.mark.parametrize("data", [5, 1.5, None, "text", True, [1.0], (1.0,), object(), {"a": 1}])
def test_data_in_a_list_that_is_no_tensor_is_a_type_error_that_names_it(
    refusals: Refusals, data: object
) -> None:
    refusals.expect(TypeError, r"fc.weight|save_obj\[0\]", [{"name": "fc.weight", "data": data}])


@pytest.mark.parametrize(
    "data", [5, 1.5, None, True, [1.0], (1.0,), object(), {"a": 1}, 2 + 1j, np.float32, iter([1])]
)
def test_a_dict_value_that_cannot_be_saved_is_a_type_error_that_names_it(
    refusals: Refusals, data: object
) -> None:
    """MindSpore drops it, or saves its neighbour twice."""
    refusals.expect(TypeError, "fc.weight", {"a": np.zeros(1), "fc.weight": data})


@pytest.mark.parametrize("key", [5, None, b"w", ("w",), 1.5])
def test_a_dict_key_that_is_no_str_is_a_type_error(refusals: Refusals, key: object) -> None:
    refusals.expect(TypeError, type(key).__name__, {key: np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    "data",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(2, "V8"),
        np.zeros(2, [("x", "f4"), ("y", "i4")]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, "timedelta64[s]"),
        np.zeros(2, np.longdouble),
        np.zeros(2, np.clongdouble),
        np.zeros(2, ml_dtypes.float8_e4m3b11fnuz),
        np.zeros(2, ml_dtypes.uint4),
    ],
    ids=lambda value: str(value.dtype),
)
def test_an_element_type_that_has_no_type_string_is_a_type_error(
    refusals: Refusals, data: object
) -> None:
    refusals.expect(TypeError, "fc.weight", {"fc.weight": data})
    refusals.expect(TypeError, "fc.weight", [{"name": "fc.weight", "data": data}])


def test_a_buffer_of_pointers_is_a_type_error(refusals: Refusals) -> None:
    view = memoryview(array.array("B", bytes(16))).cast("P")
    refusals.expect(TypeError, "fc.weight", {"fc.weight": view})


@pytest.mark.parametrize("name", ["a\ud800", "\udcff", "fc\udfffweight"])
def test_a_lone_surrogate_in_a_name_is_a_value_error(refusals: Refusals, name: str) -> None:
    """UTF-8 cannot hold it; MindSpore's protobuf refuses it too."""
    shown = name.encode("ascii", "backslashreplace").decode().replace("\\", r"\\")
    for save_obj in (
        {name: np.zeros(1)},
        {name: "text"},
        [{"name": name, "data": np.zeros(1)}],
        [Parameter(np.zeros(1), name=name)],
    ):
        refusals.expect(ValueError, shown, save_obj)
    refusals.expect(ValueError, shown, GOOD, append_dict={name: 1})


# ---- ckpt_file_name


@pytest.mark.parametrize("name", [None, 5, b"a.ckpt", ["a.ckpt"], 1.5])
def test_a_file_name_that_is_no_str_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match="ckpt_file_name"):
        save_checkpoint(GOOD, name)


def test_a_missing_file_name_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="ckpt_file_name"):
        save_checkpoint(GOOD)


def test_a_nul_in_a_file_name_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ckpt_file_name"):
        save_checkpoint(GOOD, f"{tmp_path}/a\0b.ckpt")
    assert list(tmp_path.iterdir()) == []


# ---- integrated_save, async_save, append_dict


@pytest.mark.parametrize("value", [1, 0, None, "True", np.bool_(True), []])
def test_integrated_save_is_a_bool(refusals: Refusals, value: object) -> None:
    refusals.expect(TypeError, "integrated_save", GOOD, integrated_save=value)


@pytest.mark.parametrize("value", [True, False])
def test_integrated_save_changes_nothing_without_a_parallel_context(
    tmp_path: Path, value: bool
) -> None:
    """As in MindSpore."""
    save_checkpoint(GOOD, str(tmp_path / "a.ckpt"), value)
    save_checkpoint(GOOD, str(tmp_path / "b.ckpt"))
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


class SpreadNet(nn.Cell):
    """As a MindSpore Cell that was compiled for ranks: some of its parameters are slices."""

    def __init__(self, layouts: dict[str, Any]) -> None:
        super().__init__()
        self.whole = Parameter(VALUE)
        self.part = Parameter(VALUE)
        self.parameter_layout_dict = layouts


# Device matrix, tensor map, slice's shape, field size, uniform split, optimizer group, full shape,
# slice's shape after reshaping: as MindSpore 2.10 has them.
UNCUT: list[Any] = [[2, 4], [-1, -1], [2, 3], 0, True, "", [2, 3], [2, 3]]
CUT = {
    "along one axis": [[2, 4], [1, -1], [1, 3], 0, True, "", [2, 3], [1, 3]],
    "along two axes": [[2, 4], [-1, [1, 0]], [2, 1], 0, True, "", [2, 8], [2, 1]],
    "by the optimizer": [[8], [-1, -1], [1, 3], 0, True, "group-0", [8, 3], [1, 3]],
    "in a short layout": [[8], [0, -1], [1, 3]],
}


@pytest.mark.parametrize("how", CUT)
def test_a_slice_is_not_saved_as_if_it_were_the_whole(tmp_path: Path, how: str) -> None:
    """MindSpore merges it, by a gather over all ranks; the whole parameter is not here."""
    net = SpreadNet({"whole": UNCUT, "part": CUT[how]})
    for options in ({}, {"integrated_save": True}, {"async_save": True}):
        with pytest.raises(ValueError, match=r"'part' is spread.*integrated_save=False"):
            save_checkpoint(net, tmp_path / "a.ckpt", **options)
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(net, tmp_path / "slices.ckpt", integrated_save=False)
    assert list(load_checkpoint(tmp_path / "slices.ckpt")) == ["whole", "part"]
    save_checkpoint(net, tmp_path / "whole.ckpt", choice_func=lambda name: name == "whole")
    assert list(load_checkpoint(tmp_path / "whole.ckpt")) == ["whole"]


def test_layouts_that_cut_nothing_are_no_hindrance(tmp_path: Path) -> None:
    """Along axes of one rank, or none; or of other parameters."""
    alone = [[1, 1], [1, [0, 1]], [2, 3], 0, True, "", [2, 3], [2, 3]]
    net = SpreadNet({"whole": UNCUT, "part": alone, "gone": CUT["along one axis"]})
    save_checkpoint(net, tmp_path / "a.ckpt")
    assert list(load_checkpoint(tmp_path / "a.ckpt")) == ["whole", "part"]


@pytest.mark.parametrize("value", [1, 0, None, [], np.bool_(True), b"thread"])
def test_async_save_is_a_bool_or_a_str(refusals: Refusals, value: object) -> None:
    refusals.expect(TypeError, "async_save", GOOD, async_save=value)


@pytest.mark.parametrize("value", ["foo", "", "Thread", "threads"])
def test_async_save_as_a_str_is_thread_or_process(refusals: Refusals, value: str) -> None:
    refusals.expect(ValueError, "async_save", GOOD, async_save=value)


@pytest.mark.parametrize("value", [[], "a", 5, (("a", 1),), {"a"}])
def test_append_dict_is_a_dict(refusals: Refusals, value: object) -> None:
    refusals.expect(TypeError, "append_dict", GOOD, append_dict=value)


@pytest.mark.parametrize("key", [5, None, b"epoch", ("epoch",)])
def test_a_key_of_append_dict_is_a_str(refusals: Refusals, key: object) -> None:
    refusals.expect(TypeError, "append_dict", GOOD, append_dict={key: 1})


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1],
        (1,),
        {"a": 1},
        b"bytes",
        1 + 2j,
        np.bytes_(b"bytes"),
        np.datetime64("2026-12-01"),
        object(),
        {1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_append_dict_of_another_type_is_a_type_error_that_names_it(
    refusals: Refusals, value: object
) -> None:
    said = refusals.expect(
        TypeError, "append_dict", GOOD, append_dict={"step_1": 1, "epoch_num": value}
    )
    assert "epoch_num" in said


def test_subclasses_of_the_types_in_append_dict_are_taken(tmp_path: Path) -> None:
    """Oracle: MindSpore, which asks isinstance, and keeps np.float64 as Float64."""

    class Color(enum.IntEnum):
        RED = 3

    save_checkpoint(
        {},
        str(tmp_path / "a.ckpt"),
        append_dict={"f": np.float64(0.5), "s": np.str_("text"), "i": Color.RED},
    )
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"))
    assert (str(loaded["f"].dtype), loaded["f"].asnumpy().tolist()) == ("Float64", 0.5)
    assert loaded["s"] == "text"
    assert (str(loaded["i"].dtype), loaded["i"].asnumpy().tolist()) == ("Int64", 3)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_an_int_beyond_64_bits_in_append_dict_is_a_value_error_that_names_it(
    refusals: Refusals, value: int
) -> None:
    said = refusals.expect(ValueError, "append_dict", GOOD, append_dict={"epoch_num": value})
    assert "epoch_num" in said


# ---- enc_key, enc_mode


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda key: key.decode("latin-1"), list])
def test_a_key_that_is_not_bytes_is_a_type_error_that_does_not_show_it(
    refusals: Refusals, kind: Any
) -> None:
    key = bytes(range(200, 216))
    assert_silent_about(key, refusals.expect(TypeError, "enc_key", GOOD, enc_key=kind(key)))


def test_a_number_is_no_key(refusals: Refusals) -> None:
    said = refusals.expect(TypeError, "enc_key", GOOD, enc_key=987654321)
    assert "987654321" not in said


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC"])
@pytest.mark.parametrize("length", [0, 1, 8, 15, 17, 23, 25, 31, 33, 64])
def test_an_aes_key_of_another_length_is_a_value_error_that_does_not_show_it(
    refusals: Refusals, mode: str, length: int
) -> None:
    key = bytes(range(180, 180 + length))
    said = refusals.expect(ValueError, "enc_key.*16.*24.*32", GOOD, enc_key=key, enc_mode=mode)
    assert_silent_about(key, said)


@needs_sm4
@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_an_sm4_key_has_16_bytes(refusals: Refusals, length: int) -> None:
    key = bytes(range(180, 180 + length))
    said = refusals.expect(ValueError, "enc_key.*16", GOOD, enc_key=key, enc_mode="SM4-CBC")
    assert_silent_about(key, said)


@pytest.mark.parametrize("key", [None, bytes(16)])
@pytest.mark.parametrize("mode", [5, None, b"AES-GCM", ["AES-GCM"]])
def test_enc_mode_is_a_str_with_and_without_a_key(
    refusals: Refusals, mode: object, key: bytes | None
) -> None:
    refusals.expect(TypeError, "enc_mode", GOOD, enc_mode=mode, enc_key=key)


@pytest.mark.parametrize(
    "mode", ["FOO", "aes-gcm", "SM4-GCM", "AES-ECB", "", "AES-GCM ", "AES-GCM\0"]
)
def test_an_unknown_enc_mode_with_a_key_is_a_value_error(refusals: Refusals, mode: str) -> None:
    key = bytes(range(100, 116))
    assert_silent_about(
        key, refusals.expect(ValueError, "enc_mode", GOOD, enc_mode=mode, enc_key=key)
    )


def test_an_unknown_enc_mode_without_a_key_is_not_looked_at(tmp_path: Path) -> None:
    """As in MindSpore."""
    save_checkpoint(GOOD, str(tmp_path / "a.ckpt"), enc_mode="FOO")
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"), dec_mode="BAR")) == ["w"]


@pytest.mark.parametrize("mode", MODES)
def test_nul_bytes_in_a_key_count(tmp_path: Path, mode: str) -> None:
    """Oracle: MindSpore refuses a key that differs behind a NUL."""
    key, other = b"k\0" + bytes(range(14)), b"k\0" + bytes(range(1, 15))
    save_checkpoint(GOOD, str(tmp_path / "a.ckpt"), enc_key=key, enc_mode=mode)
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=key, dec_mode=mode)) == ["w"]
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=other, dec_mode=mode)


# ---- choice_func


@pytest.mark.parametrize("value", [5, "w", False, True, ["w"]])
def test_choice_func_is_callable(refusals: Refusals, value: object) -> None:
    refusals.expect(TypeError, "choice_func", GOOD, choice_func=value)
    refusals.expect(TypeError, "choice_func", [], choice_func=value)


def test_an_error_in_choice_func_propagates(refusals: Refusals) -> None:
    refusals.expect(ZeroDivisionError, "division", GOOD, choice_func=lambda name: 1 / 0)
    refusals.expect(TypeError, "positional", GOOD, choice_func=lambda: True)


def test_choice_func_is_asked_for_each_name_in_order(tmp_path: Path) -> None:
    asked: list[str] = []

    def choose(name: str) -> bool:
        asked.append(name)
        return name != "b"

    save_obj = {name: np.zeros(1, np.float32) for name in "cab"}
    save_checkpoint(save_obj, str(tmp_path / "a.ckpt"), choice_func=choose)
    assert asked == ["c", "a", "b"]
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"))) == ["c", "a"]


@pytest.mark.parametrize(
    ("answer", "kept"), [(None, False), (0, False), ("", False), ("no", True), (1, True)]
)
def test_only_the_truth_of_choice_funcs_answer_counts(
    tmp_path: Path, answer: object, kept: bool
) -> None:
    """Oracle: MindSpore writes an empty file for None."""
    save_checkpoint(GOOD, str(tmp_path / "a.ckpt"), choice_func=lambda name: answer)
    assert bool((tmp_path / "a.ckpt").read_bytes()) == kept


@pytest.mark.parametrize(
    ("save_obj", "options"),
    [
        ({"w": VALUE}, {"choice_func": lambda _: False}),
        ({"w": VALUE}, {"choice_func": lambda _: False, "append_dict": {"epoch": 1}}),
        ([], {}),
        ({}, {}),
        (nn.Cell(), {}),
        (nn.Cell(), {"append_dict": {}}),
    ],
)
def test_a_save_that_selects_nothing_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, save_obj: Any, options: dict[str, Any]
) -> None:
    """It is done all the same, as in MindSpore, and may replace a good file."""
    save_checkpoint(save_obj, tmp_path / "a.ckpt", **options)
    assert (tmp_path / "a.ckpt").exists()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("mindckpt", "WARNING")
    assert "nothing is selected of save_obj" in record.getMessage()


@pytest.mark.parametrize(
    ("save_obj", "options"),
    [
        ([], {"append_dict": {"epoch": 1}}),
        ({"w": VALUE, "v": VALUE}, {"choice_func": lambda name: name == "v"}),
    ],
)
def test_a_save_that_selects_something_does_not_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, save_obj: Any, options: dict[str, Any]
) -> None:
    save_checkpoint(save_obj, tmp_path / "a.ckpt", **options)
    assert caplog.records == []


# ---- kwargs


@pytest.mark.parametrize("name", ["foo", "crc", "enc_Key", "Progress", "mmap"])
def test_an_unknown_keyword_is_a_type_error_that_names_it(refusals: Refusals, name: str) -> None:
    refusals.expect(TypeError, f"'?{name}'?", GOOD, **{name: True})


@pytest.mark.parametrize("name", ["crc_check", "durable"])
@pytest.mark.parametrize("value", [1, 0, None, "True", np.bool_(True)])
def test_a_switch_is_a_bool(refusals: Refusals, name: str, value: object) -> None:
    refusals.expect(TypeError, name, GOOD, **{name: value})


@pytest.mark.parametrize("value", [0, -1, -(2**40)])
def test_num_threads_is_at_least_one(refusals: Refusals, value: int) -> None:
    refusals.expect(ValueError, "num_threads", GOOD, num_threads=value)


@pytest.mark.parametrize("value", [0, -1, 1, 1023, 64 * 2**20 + 1, 2**40, 2**70])
def test_block_bytes_lie_between_1_kib_and_64_mib(refusals: Refusals, value: int) -> None:
    refusals.expect(ValueError, "block_bytes", GOOD, block_bytes=value)


@pytest.mark.parametrize("name", ["num_threads", "block_bytes"])
@pytest.mark.parametrize("value", ["4", 1.5, 2048.0, [2]])
def test_a_number_is_an_int(refusals: Refusals, name: str, value: object) -> None:
    refusals.expect(TypeError, name, GOOD, **{name: value})


@pytest.mark.parametrize("value", [5, "bar", True, object()])
def test_progress_is_callable_or_has_update(refusals: Refusals, value: object) -> None:
    refusals.expect(TypeError, "progress", GOOD, progress=value)


@pytest.mark.parametrize("value", ["safetensors", "foo", "", None, 5])
def test_a_format_but_ckpt_is_refused(refusals: Refusals, value: object) -> None:
    refusals.expect((TypeError, ValueError), "format", GOOD, format=value)


@pytest.mark.parametrize("value", ["a", 1, 0])
def test_remove_redundancy_is_none_or_a_bool(refusals: Refusals, value: object) -> None:
    refusals.expect((TypeError, ValueError), "remove_redundancy", GOOD, remove_redundancy=value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"incremental": True},
        {"incremental": "yes"},
        {"global_step_num": 5},
        {"step_num": 5},
        {"remove_redundancy": True},
        {"remove_redundancy": None},
        {"format": "ckpt"},
        {"num_threads": None, "block_bytes": None, "progress": None},
    ],
    ids=str,
)
def test_a_keyword_of_mindspores_without_meaning_here_changes_nothing(
    tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    save_checkpoint(GOOD, str(tmp_path / "a.ckpt"), **kwargs)
    save_checkpoint(GOOD, str(tmp_path / "b.ckpt"))
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


# ---- all of it


@pytest.mark.parametrize(
    "kwargs",
    [
        {"integrated_save": 1},
        {"async_save": "foo"},
        {"append_dict": {"a": None}},
        {"enc_key": b"short"},
        {"enc_key": bytes(16), "enc_mode": "FOO"},
        {"enc_mode": None},
        {"choice_func": 5},
        {"crc_check": 1},
        {"durable": 1},
        {"num_threads": 0},
        {"block_bytes": 1},
        {"progress": 5},
        {"format": "foo"},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_arguments_are_checked_before_any_array_is_touched(
    tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        save_checkpoint({"a": Untouchable()}, str(tmp_path / "a.ckpt"), **kwargs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", AVAILABLE_MODES)
def test_no_error_of_a_save_with_a_sound_key_shows_the_key(refusals: Refusals, mode: str) -> None:
    key = bytes(range(150, 166))
    secret = {"enc_key": key, "enc_mode": mode}
    said = refusals.expect(TypeError, "w", {"w": None}, **secret)
    said += refusals.expect(TypeError, "nonsense", GOOD, nonsense=1, **secret)
    said += refusals.expect(ValueError, "block_bytes", GOOD, block_bytes=1, **secret)
    with pytest.raises(OSError, match="missing") as caught:
        save_checkpoint(GOOD, str(refusals.folder / "missing" / "a.ckpt"), **secret)
    assert_silent_about(key, said + everything_said(caught.value))


def test_no_error_shows_what_a_parameter_holds(refusals: Refusals) -> None:
    secret = np.full(4, 123456789, np.int64)
    said = refusals.expect(TypeError, "b", {"a": secret, "b": np.array([object()])})
    said += refusals.expect(TypeError, "b", {"a": secret, "b": [123456789]})
    assert "123456789" not in said


def test_a_synchronous_save_returns_none(tmp_path: Path) -> None:
    """As documented."""
    assert save_checkpoint(GOOD, str(tmp_path / "a.ckpt")) is None
