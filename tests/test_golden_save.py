"""Oracle: MindSpore 2.10. What it wrote from the same parameters, we write byte for byte.

Encrypted files differ by their random IVs, so their plaintexts are compared, which the
`cryptography` package opens.
"""

import stat
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import frames
import golden
import wire
from golden import integers, values
from mindckpt import Parameter, SaveJob, Tensor, dtypes, load_checkpoint, nn, save_checkpoint
from support import needs_sm4

Named = list[tuple[str, Any]]
Save = tuple[object, dict[str, Any]]  # save_obj, and keyword arguments of save_checkpoint

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
INTEGERS = [
    ("int8", 100),
    ("int16", 30000),
    ("int32", 2**31 - 200),
    ("int64", 2**40),
    ("uint8", 250),
    ("uint16", 65000),
    ("uint32", 2**32 - 1000),
    ("uint64", 2**50),
]


def elements(named: Named) -> list[dict[str, Any]]:
    """The {"name", "data"} form of a save_obj."""
    return [{"name": name, "data": data} for name, data in named]


def all_types() -> Named:
    named: Named = [(name, integers(name, limit, i)) for i, (name, limit) in enumerate(INTEGERS)]
    return [
        *named,
        ("float16", values((3, 4), 20).astype(np.float16)),
        ("float32", values((3, 4), 21)),
        ("float64", values((3, 4), 22, np.float64)),
        ("bfloat16", values((3, 4), 23).astype(BFLOAT16)),
        ("bool", values((3, 4), 24) > 0),
    ]


def base() -> Named:
    return [
        ("a", values((2, 3), 310)),
        ("b", integers("int64", 1000, 5)),
        ("c", values((5,), 311).astype(np.float16)),
    ]


class Dense(nn.Cell):
    def __init__(self, inputs: int, outputs: int, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = Parameter(np.zeros((outputs, inputs), np.float32), name="weight")
        if has_bias:
            self.bias = Parameter(np.zeros(outputs, np.float32), name="bias")


class Convolution(nn.Cell):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        shape = (outputs, inputs, kernel, kernel)
        self.weight = Parameter(np.zeros(shape, np.float32), name="weight")


class BatchNorm(nn.Cell):
    def __init__(self, features: int) -> None:
        super().__init__()
        for name in ("moving_mean", "moving_variance", "gamma", "beta"):
            trained = not name.startswith("moving")
            value = Parameter(np.zeros(features, np.float32), name=name, requires_grad=trained)
            setattr(self, name, value)


class Inner(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.zb = Parameter(values((2,), 901), name="zb")
        self.aa = Parameter(values((3,), 902), name="aa", requires_grad=False)


class Nested(nn.Cell):
    """Parameters before, between and behind children; one of them tied, one unnamed."""

    def __init__(self) -> None:
        super().__init__()
        self.p2 = Parameter(values((2, 2), 900), name="p2")
        self.inner = Inner()
        self.p1 = Parameter(values((3,), 903))
        self.fc = Dense(2, 3)
        self.tied = self.p2
        self.lst = nn.CellList([Dense(1, 1, has_bias=False), Dense(1, 2)])
        self.bn = BatchNorm(2)


class LeNet5(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Convolution(1, 6, 5)
        self.conv2 = Convolution(6, 16, 5)
        self.fc1 = Dense(16 * 5 * 5, 120)
        self.fc2 = Dense(120, 84)
        self.fc3 = Dense(84, 10)


def filled(net: nn.Cell, seed: int) -> nn.Cell:
    """`net` with golden values in all of its parameters."""
    for i, parameter in enumerate(net.get_parameters()):
        parameter.set_data(Tensor(values(parameter.shape, seed + i)))
    return net


def save(named: Named, **kwargs: Any) -> Callable[[], Save]:
    return lambda: (elements(named), kwargs)


def specials() -> Named:
    floats = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-45, 3.4028235e38], np.float32)
    payloads = np.array([0x7FC00001, 0x7F800001, 0xFFC12345], np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        halves = floats.astype(np.float16)
    doubles = floats.astype(np.float64)
    return [("f32", floats), ("nan_payload", payloads), ("f16", halves), ("f64", doubles)]


def lenet(chosen: Callable[[str], bool]) -> Callable[[], Save]:
    return lambda: (filled(LeNet5(), 200), {"choice_func": chosen})


def lenet_list() -> Save:
    parameters = filled(LeNet5(), 200).trainable_params()
    return parameters, {"choice_func": lambda name: name.startswith("conv") and name[4] != "2"}


def dict_order() -> Save:
    return {
        "z": Parameter(values((1,), 78), name="other"),
        "a": Parameter(values((2,), 79)),
        "m": "a str",
        "b": Parameter(values((3,), 80)),
    }, {}


def list_params() -> Save:
    return [
        Parameter(values((2,), 83), name="p.a"),
        Parameter(values((2,), 84), name="p.b", requires_grad=False),
        Parameter(values((2,), 85), name="p.c"),
    ], {}


def appended() -> dict[str, Any]:
    return {
        "i": 5,
        "neg": -3,
        "big": 2**40,
        "imax": 2**63 - 1,
        "imin": -(2**63),
        "u64": 2**63,
        "f": 0.1,
        "f_over": 1e300,
        "f_under": 1e-50,
        "t": True,
        "ff": False,
        "s": "hello",
        "s_empty": "",
        "s_uni": "h\u00e9\u6f22\U0001f600",
        "s_nul": "ab\0c\0",
        "p": Parameter(Tensor(np.float32(1.5)), name="zzz"),
        "tn": Tensor(np.array([[1, 2], [2, 3]])),
        "pf": Parameter(Tensor(np.array([1, 2], np.float32)), requires_grad=False),
    }


ODD_NAMES = [
    "conv1.weight",
    "a/b",
    "a b",
    "\u00e9\u6f22\U0001f600",
    ".",
    "..",
    "x" * 300,
    "tab\tnl\n",
    "Parameter",
    "q\"'\\",
    "with\0nul",
]
TAIL = {"s": "str", "n": 1}  # the append_dict of many golden files
ONE = [("a", values((2,), 320))]

PLAIN: dict[str, Callable[[], Save]] = {
    "dt_all.ckpt": save(all_types()),
    "dt_all_async.ckpt": save(all_types(), async_save=True),
    "dt_float16.ckpt": save([("w", values((3, 4), 20).astype(np.float16))]),
    "dt_float32.ckpt": save([("w", values((3, 4), 21))]),
    "dt_float64.ckpt": save([("w", values((3, 4), 22, np.float64))]),
    "dt_bfloat16.ckpt": save([("w", values((3, 4), 23).astype(BFLOAT16))]),
    "dt_qint4x2.ckpt": save(
        [("w", Tensor(np.array([[1, -2, 127], [-128, 0, 17]], np.int8), dtypes.qint4x2))]
    ),
    "dt_complex64.ckpt": save(
        [("w", (values((2, 2), 30) + 1j * values((2, 2), 31)).astype(np.complex64))]
    ),
    "dt_complex128.ckpt": save(
        [("w", (values((2, 2), 30) + 1j * values((2, 2), 31)).astype(np.complex128))]
    ),
    "dt_float8_e4m3fn.ckpt": save([("w", values((2, 3), 32).astype(ml_dtypes.float8_e4m3fn))]),
    "dt_float8_e5m2.ckpt": save([("w", values((2, 3), 32).astype(ml_dtypes.float8_e5m2))]),
    "dt_hifloat8.ckpt": save(
        # Nothing but MindSpore converts to HiFloat8: these are its bytes.
        [
            (
                "w",
                Tensor(
                    np.frombuffer(bytes.fromhex("9919b99e32b5"), np.uint8).reshape(2, 3),
                    dtypes.hifloat8,
                ),
            )
        ]
    ),
    "float_special.ckpt": save(specials()),
    "shapes.ckpt": save(
        [
            ("s0", np.array(3.5, np.float32)),
            ("s1", values((1,), 40)),
            ("s11", values((1, 1), 41)),
            ("s5", values((1, 2, 3, 1, 2), 42)),
            ("i0", np.array(-7, np.int64)),
            ("b0", np.array(True)),
        ]
    ),
    "empty_async.ckpt": save(
        [
            ("a", values((2,), 43)),
            ("e03", np.zeros((0, 3), np.float32)),
            ("e30", np.zeros((3, 0), np.int32)),
            ("b", values((2,), 44)),
        ],
        async_save=True,
    ),
    "empty_async_d0.ckpt": save(
        [("a", values((2,), 43)), ("e0", np.zeros(0, np.float32))], async_save=True
    ),
    "long_varints.ckpt": save(
        [
            ("v" * 130, (np.arange(70000) % 251 - 125).astype(np.int8)),
            ("w", (np.arange(20000) * 3 % 65521).astype(np.uint16).reshape(200, 100)),
        ]
    ),
    "view_noncontig.ckpt": save([("t", values((2, 3), 45).T)]),
    "names.ckpt": save([(name, values((2,), 50 + i)) for i, name in enumerate(ODD_NAMES)]),
    "name_empty.ckpt": save([("", values((2,), 70)), ("b", values((1,), 71))]),
    "name_1024.ckpt": save([("n" * 1024, values((2,), 72))]),
    "name_1025.ckpt": save([("n" * 1025, values((2,), 72))]),
    "name_param_key.ckpt": save([("w.__param_key__5", values((2,), 73)), ("q", values((1,), 74))]),
    "dup_names.ckpt": save(
        [("a", values((2,), 75)), ("b", values((1,), 76)), ("a", values((3,), 77))]
    ),
    "dict_order.ckpt": dict_order,
    "list_params.ckpt": list_params,
    "cell_nested.ckpt": lambda: (filled(Nested(), 100), {}),
    "cell_trainable.ckpt": lambda: (filled(Nested(), 100).trainable_params(), {}),
    "lenet_conv2.ckpt": lenet(
        lambda name: name.startswith("conv") and not name.startswith("conv1")
    ),
    "lenet_list.ckpt": lenet_list,
    "lenet_dict.ckpt": lambda: (load_checkpoint(golden.FOLDER / "lenet_list.ckpt"), {}),
    "lenet_no_fc1.ckpt": lenet(lambda name: not name.startswith("fc1")),
    "append_dict.ckpt": lambda: (elements([("a", values((2,), 300))]), {"append_dict": appended()}),
    "append_only.ckpt": save([], append_dict={"lr": 0.01, "epoch": 3}),
    "append_same_name.ckpt": save(
        [("a", values((2,), 301)), ("b", values((1,), 302))], append_dict={"a": 7}
    ),
    "append_choice.ckpt": save(
        [("w", values((2,), 303))], append_dict={"w2": 1}, choice_func=lambda name: False
    ),
    "empty_list.ckpt": save([]),
    "crc.ckpt": save(base(), append_dict=TAIL, crc_check=True),
    "crc_empty.ckpt": save([], crc_check=True),
    "crc_async.ckpt": save(base(), append_dict=TAIL, crc_check=True, async_save=True),
    "enc_plain_reference.ckpt": save(base(), append_dict=TAIL),
    "noext.ckpt": save(ONE),
    "plainckpt": save(ONE),
    "two.ckpt.ckpt": save(ONE),
    "upper.CKPT.ckpt": save(ONE),
    "overwritten.ckpt": save([("new", values((2,), 322))]),
    "async_process.ckpt": save(base(), append_dict=TAIL, async_save="process"),
}


def _encrypted(mode: str, length: int, **kwargs: Any) -> Callable[[], Save]:
    return save(base(), append_dict=TAIL, enc_key=golden.key(length), enc_mode=mode, **kwargs)


ENCRYPTED = {
    **{
        f"enc_{mode.replace('-', '').lower()}_{length}.ckpt": _encrypted(mode, length)
        for mode, length in frames.MODES_AND_LENGTHS
    },
    "enc_gcm_async.ckpt": _encrypted("AES-GCM", 16, async_save=True),
    "enc_gcm_empty.ckpt": save([], enc_key=golden.key(16)),
}

# Files that MindSpore damages as it writes them: ours differ, and each has a test of its own below.
DAMAGED = {
    "empty_sync.ckpt",
    "dict_tensor_lost.ckpt",
    "enc_crc_aesgcm.ckpt",
    "enc_crc_aescbc.ckpt",
    "enc_crc_sm4cbc.ckpt",
}
# Slices of an 8 by 12 tensor and MindSpore's merge of them: their values are taken from the files.
PARALLEL = {file for file in golden.ENTRIES if file.startswith("par/")}


def saved_bytes(folder: Path, name: str, save_obj: object, **kwargs: Any) -> bytes:
    """What save_checkpoint leaves on disk."""
    job = save_checkpoint(save_obj, str(folder / name), **kwargs)
    if isinstance(job, SaveJob):
        job.result()
    return (folder / name).read_bytes()


def arrays_of(plain: bytes) -> Named:
    """The records of a plain file as arrays, read with tests/wire.py alone."""
    named: Named = []
    for raw in wire.split_records(plain):
        value = {number: content for number, content, _ in wire.fields(_content(raw))}
        parts = list(wire.fields(value[2]))
        dims = [part for number, part, _ in parts if number == 1]
        tensor = {number: part for number, part, _ in parts}
        kind = dtypes.from_name(tensor[2].decode()).numpy
        named.append((value[1].decode(), np.frombuffer(tensor[3], kind).reshape(dims)))
    return named


def _content(raw: bytes) -> bytes:
    """What an outer field of a file holds."""
    ((_, content, _),) = wire.fields(raw)
    assert isinstance(content, bytes)
    return content


def _ids(files: Iterable[str]) -> list[Any]:
    return [pytest.param(file, marks=needs_sm4) if "sm4" in file else file for file in files]


def test_every_file_that_mindspore_wrote_is_saved_here() -> None:
    """Guards the tables: no golden file is left out by an oversight."""
    written = {
        file for file, entry in golden.ENTRIES.items() if entry["writer"].startswith("mindspore")
    }
    assert PLAIN.keys() | ENCRYPTED.keys() | DAMAGED | PARALLEL == written


@pytest.mark.parametrize("file", [f for f in PLAIN if golden.ENTRIES[f]["saved"]])
def test_the_values_we_save_are_those_that_mindspore_was_given(file: str, tmp_path: Path) -> None:
    """Guards the inputs: the manifest's digests of what MindSpore saved."""
    save_obj, kwargs = PLAIN[file]()
    saved_bytes(tmp_path, file, save_obj, **kwargs)
    loaded = load_checkpoint(tmp_path / file)
    digests = {
        e["name"]: e["sha256"] for e in golden.ENTRIES[file]["saved"] if e["kind"] == "tensor"
    }
    for row in golden.ENTRIES[file]["append_dict"]:
        digests.pop(row["name"], None)
    chosen = {e["tag"] for e in golden.ENTRIES[file]["records"]}
    for name, digest in digests.items():
        if name in chosen:
            key = name.split(".__param_key__")[0]
            assert golden.sha256(loaded[key].asnumpy().tobytes()) == digest, name


@pytest.mark.parametrize("file", PLAIN)
def test_a_save_equals_mindspores_file_byte_for_byte(file: str, tmp_path: Path) -> None:
    save_obj, kwargs = PLAIN[file]()
    assert saved_bytes(tmp_path, file, save_obj, **kwargs) == golden.read(file)
    assert oct(stat.S_IMODE((tmp_path / file).stat().st_mode)) == golden.ENTRIES[file]["file_mode"]


@pytest.mark.parametrize("file", sorted(PARALLEL))
def test_a_save_of_parallel_slices_equals_mindspores_file(file: str, tmp_path: Path) -> None:
    name = Path(file).name
    assert saved_bytes(tmp_path, name, elements(arrays_of(golden.read(file)))) == golden.read(file)


# Loading, as in MindSpore, cuts a cache key's suffix from a name and NULs from the end of a str.
CHANGED_BY_LOADING = {"name_param_key.ckpt", "append_dict.ckpt"}
RESAVED = [
    f for f in PLAIN if "dict" in golden.ENTRIES[f]["ms_load"] and f not in CHANGED_BY_LOADING
]


@pytest.mark.parametrize("file", RESAVED)
def test_what_we_load_saves_to_mindspores_bytes_again(file: str, tmp_path: Path) -> None:
    loaded = load_checkpoint(golden.FOLDER / file)
    crc_check = golden.ENTRIES[file]["save_kwargs"].get("crc_check", False)
    assert saved_bytes(tmp_path, file, loaded, crc_check=crc_check) == golden.read(file)


@pytest.mark.parametrize("block_bytes", [1024, 65536])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_blocks_and_threads_leave_no_trace_in_a_plain_file(
    tmp_path: Path, num_threads: int, block_bytes: int
) -> None:
    """Oracle: MindSpore's file of 110 KB."""
    file = "long_varints.ckpt"
    save_obj, _ = PLAIN[file]()
    kwargs = {"num_threads": num_threads, "block_bytes": block_bytes}
    assert saved_bytes(tmp_path, file, save_obj, **kwargs) == golden.read(file)


def test_a_name_gets_the_suffix_that_mindspore_adds(tmp_path: Path) -> None:
    """Oracle: the names that MindSpore gave the same files."""
    for asked, written in [
        ("noext", "noext.ckpt"),
        ("plainckpt", "plainckpt"),
        ("two.ckpt.ckpt", "two.ckpt.ckpt"),
        ("upper.CKPT", "upper.CKPT.ckpt"),
    ]:
        save_checkpoint(elements(ONE), str(tmp_path / asked))
        assert (tmp_path / written).read_bytes() == golden.read(written)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["noext.ckpt", "plainckpt", "two.ckpt.ckpt", "upper.CKPT.ckpt"]
    )


def test_a_second_save_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    saved_bytes(tmp_path, "overwritten.ckpt", elements([("old", values((4,), 321))]))
    again = saved_bytes(tmp_path, "overwritten.ckpt", elements([("new", values((2,), 322))]))
    assert again == golden.read("overwritten.ckpt")


@pytest.mark.parametrize("file", _ids(ENCRYPTED))
def test_an_encrypted_save_hides_what_mindspores_hides(file: str, tmp_path: Path) -> None:
    """Oracle: `cryptography` opens both; ours holds the same records."""
    save_obj, kwargs = ENCRYPTED[file]()
    sealed = saved_bytes(tmp_path, file, save_obj, **kwargs)
    theirs = frames.open_all(golden.read(file), kwargs["enc_key"])
    assert wire.only_records(frames.open_all(sealed, kwargs["enc_key"])) == theirs


def test_empty_tensors_are_kept_where_mindspore_loses_them(tmp_path: Path) -> None:
    """Oracle: MindSpore's file, with the records put in that its asynchronous path writes."""
    named = [
        ("a", values((2,), 43)),
        ("e0", np.zeros(0, np.float32)),
        ("e03", np.zeros((0, 3), np.float32)),
        ("b", values((2,), 44)),
    ]
    first, last = wire.split_records(golden.read("empty_sync.ckpt"))
    lost = wire.record("e0", [0], "Float32", b"") + wire.record("e03", [0, 3], "Float32", b"")
    assert saved_bytes(tmp_path, "empty_sync.ckpt", elements(named)) == first + lost + last


def test_a_tensor_in_a_dict_is_kept_where_mindspore_loses_it(tmp_path: Path) -> None:
    """Oracle: MindSpore's file, with the record put in that it drops in silence."""
    z = values((2,), 82)
    save_obj = {"y": Parameter(values((1,), 81)), "z": Tensor(z)}
    expected = golden.read("dict_tensor_lost.ckpt") + wire.record("z", [2], "Float32", z.tobytes())
    assert saved_bytes(tmp_path, "dict_tensor_lost.ckpt", save_obj) == expected


@pytest.mark.parametrize(
    "mode", [m if m != "SM4-CBC" else pytest.param(m, marks=needs_sm4) for m in frames.MODES]
)
def test_the_crc_of_an_encrypted_save_stands_inside_the_plaintext(
    mode: str, tmp_path: Path
) -> None:
    """MindSpore writes it outside and cannot read it back. Oracles: zlib, and its records."""
    key = golden.key(16)
    sealed = saved_bytes(
        tmp_path, "a.ckpt", elements(base()), enc_key=key, enc_mode=mode, crc_check=True
    )
    plain = frames.open_all(sealed, key)
    assert plain[-17:-10] == b"crc_num"
    assert int.from_bytes(plain[-10:], "big") == zlib.crc32(plain[:-17])
    reference = b"".join(wire.split_records(golden.read("enc_plain_reference.ckpt"))[:3])
    assert wire.only_records(plain) == reference


def test_arrays_and_tensors_and_parameters_save_alike(tmp_path: Path) -> None:
    """Oracle: MindSpore's file of the same values."""
    for wrap in (np.asarray, Tensor, Parameter, memoryview):
        named: Named = [("w", wrap(values((3, 4), 21)))]
        assert saved_bytes(tmp_path, "w.ckpt", elements(named)) == golden.read("dt_float32.ckpt")
        assert saved_bytes(tmp_path, "w.ckpt", dict(named)) == golden.read("dt_float32.ckpt")
