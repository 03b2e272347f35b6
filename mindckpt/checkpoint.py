"""The three functions that users call."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from mindckpt import _core
from mindckpt.arrays import type_name
from mindckpt.assign import assign, check_net
from mindckpt.device import prepare_snapshots, raw_stream
from mindckpt.errors import CheckpointError
from mindckpt.frameworks import destinations
from mindckpt.job import SaveJob, running_saves
from mindckpt.paths import check_file, path_to_load, path_to_reuse, path_to_save
from mindckpt.progress import Progress, progress_function
from mindckpt.records import (
    ParameterDict,
    check_append_dict,
    check_save_obj,
    dtypes_of,
    records_of,
    resolved,
    to_parameter_dict,
)
from mindckpt.selection import checked_choice, name_filter

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["load_checkpoint", "load_param_into_net", "save_checkpoint"]

_KEY_BYTES = {"AES-GCM": (16, 24, 32), "AES-CBC": (16, 24, 32), "SM4-CBC": (16,)}
_SNAPSHOTS = ("auto", "device", "host", "lazy")
_MIN_BLOCK_BYTES = 1 << 10
_MAX_BLOCK_BYTES = 64 << 20  # MindSpore's loader refuses larger ones
_MAX_THREADS = 1024
_LEASE_SECONDS = 60.0  # the kernel takes a lease back from who does not give it after 45


class SaveOptions(TypedDict, total=False):
    """The further keywords of save_checkpoint."""

    crc_check: bool
    durable: bool
    reuse: str | os.PathLike[str] | None
    num_threads: int | None
    block_bytes: int | None
    progress: Progress | None
    snapshot: str
    stream: object
    trace: bool
    format: str
    incremental: object
    global_step_num: object
    step_num: object
    remove_redundancy: bool | None


class LoadOptions(TypedDict, total=False):
    """The further keywords of load_checkpoint."""

    device: str | None
    framework: str | None
    mmap: bool
    num_threads: int | None
    format: str
    remove_redundancy: bool


def save_checkpoint(
    save_obj: object,
    ckpt_file_name: str | os.PathLike[str],
    integrated_save: bool = True,
    async_save: bool | str = False,
    append_dict: dict[str, Any] | None = None,
    enc_key: bytes | None = None,
    enc_mode: str = "AES-GCM",
    choice_func: Callable[[str], object] | None = None,
    **kwargs: Unpack[SaveOptions],
) -> SaveJob | None:
    """Save parameters to a checkpoint file that MindSpore loads.

    The file appears whole or not at all: it is written under another name in the same folder, synced
    to storage, made read-only (mode 0400) and then renamed. Until that moment an older file of that
    name stays as it was. Without a key it is, byte for byte, what MindSpore writes, but for empty
    tensors, which MindSpore loses.

    A tensor may be a Parameter or Tensor, a NumPy array (with ml_dtypes' bfloat16, float8_e4m3fn,
    float8_e5m2 or int4, too), a torch, CuPy, JAX, Numba or MindSpore tensor, or anything with
    `__array_interface__`, the buffer protocol, `__cuda_array_interface__`, DLPack or `__array__`.
    It may be of any strides and byte order, and in host memory or on a device: what the stream it
    is made in holds at the call is done before it is read. Without `async_save` nothing is copied
    first: no other thread may write to the tensors during the call.

    Args:
        save_obj: What to save, in its order:

            - a Cell, or any object with `parameters_and_names()`, such as a mindspore.nn.Cell;
            - a list of Parameters, such as `net.trainable_params()`;
            - a list of {"name": str, "data": tensor}, whose name beats the Parameter's;
            - a dict of name -> tensor or str, such as `load_checkpoint` returns.

            Of a name that comes twice the last value is saved, in the first place.
        ckpt_file_name: Where to. `.ckpt` is added unless the name ends with 'ckpt'; symbolic links
            are followed, but for one of another user in a folder like /tmp. The folder must exist.
        integrated_save: Whether parameters that are spread over ranks are saved whole. That is not
            possible yet: a MindSpore Cell that has slices, by its `parameter_layout_dict`, is
            refused, and is saved slice by slice with False. No effect on other objects.
        async_save: True (or 'thread', or 'process', which is a thread here) keeps the values as of
            the call, as `snapshot` says, returns at once and writes in the background; in rare
            cases, see SaveJob, it writes before it returns. Saves to one file keep their order. A
            process waits for its saves when it exits, but not when it is killed, as the workers of
            a `multiprocessing.Pool` are by `terminate()`. False writes before it returns.
        append_dict: More to save, after `save_obj`: name -> int (stored as a scalar of Int64, or
            UInt64 from 2**63), float (Float32; a numpy.float64 Float64), bool (Bool), str, or
            a tensor; NumPy's numbers keep their type.
        enc_key: Encrypts the file: 16, 24 or 32 bytes for AES, 16 for SM4. None does not encrypt.
        enc_mode: 'AES-GCM', 'AES-CBC' or 'SM4-CBC'; only looked at with a key. Only AES-GCM notices
            tampering.
        choice_func: Asked with each name of `save_obj`; the parameter is saved if the answer is
            true. `append_dict` is saved whatever it says. Where nothing of `save_obj` is saved, a
            warning says so.
        **kwargs: Further options:

            - crc_check (bool): Whether to add a CRC-32 of all records, which `load_checkpoint`
              verifies. In an encrypted file it lies inside the ciphertext. Default: False.
            - durable (bool): Whether to sync to storage before the file appears. False is faster,
              and a crash of the machine may lose the file, and the one that it replaced. Default:
              True.
            - reuse: The path of an older checkpoint that you would delete now, as a rotation does. It
              is given up: gone once this save has ended well, whatever it looked like. Where that
              can't be noticed (it is a file of yours, without other hard links, in the same file
              system, and nobody has it open or mapped), a durable save writes over its blocks,
              which is faster than to have new ones allocated; from that moment on it is gone even
              if the save fails. Else it is removed at the end; `SaveJob.result` says why. Default:
              None.
            - num_threads (int): How many threads work, 1 to 1024. Default: None, as many as pay
              off.
            - block_bytes (int): Most bytes of the pieces that are worked on one by one: 1 KiB to
              64 MiB. AES-GCM encrypts each by itself, CBC in smaller parts, several of them side by
              side. Default: None, a good size.
            - progress: A function of (bytes written, bytes in all), or a bar with `update(n)` like
              tqdm's, whose `total` is set. It is called in this thread, ten times a second and at
              the end (with `async_save` in `wait()` and `result()` of the job). An exception from
              it cancels the save, unless that has ended.
            - snapshot (str): How `async_save` keeps the values as of the call. Default: 'auto'.

              - 'device': tensors on devices are copied within the device's memory, and leave it
                afterwards through staging buffers;
              - 'host': they are copied to pinned host memory as large as they are, which is kept
                for the next save;
              - 'lazy': nothing is copied; they must not be overwritten before `SaveJob.fence`;
              - 'auto': 'device' where its memory suffices, else 'host', else the call lasts until
                everything has left the device; the stats say what was done, and why.

              With all but 'lazy' the streams that made the tensors wait on the device until they
              have been copied, and the host does not; only where a tensor does not tell its stream
              the host waits. Tensors in host memory are copied before the call returns, with
              'lazy' not at all.
            - stream: The stream in which the tensors on devices are written, of CuPy, torch,
              torch_npu or Numba, or the driver's handle. Default: None, what each tensor says; for
              Parameters that were loaded to a device, which can't say it, the call first waits for
              all that is on their device.
            - trace (bool): Whether the job of an `async_save` remembers when each stage of each
              block was worked on, for `SaveJob.trace`. Default: False.
            - format (str): Only 'ckpt'.
            - incremental, global_step_num, step_num, remove_redundancy: Accepted for MindSpore's
              sake, without effect.

    Returns:
        None once the file is there; with `async_save` a SaveJob.

    Raises:
        TypeError: An argument, an element of `save_obj` or a value of `append_dict` is of a wrong
            type or can't be saved (elements that are objects or strings, a device that can't be
            used); or an unknown keyword.
        ValueError: A wrong length of `enc_key`, an unknown `enc_mode` (with a key), a name that is
            not Unicode, an int out of range, a keyword out of range, a parameter that is spread over
            ranks (with `integrated_save`), or a `reuse` that is the file to be saved or no regular
            file; or, with a tensor on a device, MINDCKPT_STAGING_BYTES in the environment. None of
            these, nor a TypeError, leaves a trace.
        OSError: The file system said no: no such folder, a directory in place of the file, no
            permission, no space; or, as the message then says, the file is published, but a crash of
            the machine may lose its name. With errno and filename. Also for an earlier asynchronous
            save, if nobody has asked its job.
        RuntimeError: There is no SM4 in the libraries of this machine, or a device's driver failed.

    Example:
        >>> import mindckpt as ms
        >>> import numpy as np
        >>> class Layer(ms.nn.Cell):
        ...     def __init__(self, *shape, bias=None):
        ...         super().__init__()
        ...         self.weight = ms.Parameter(np.zeros(shape, np.float32))
        ...         if bias:
        ...             self.bias = ms.Parameter(np.zeros(bias, np.float32))
        >>> class LeNet5(ms.nn.Cell):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv1 = Layer(6, 1, 5, 5)
        ...         self.conv2 = Layer(16, 6, 5, 5)
        ...         self.fc1 = Layer(120, 400, bias=120)
        ...         self.fc2 = Layer(84, 120, bias=84)
        ...         self.fc3 = Layer(10, 84, bias=10)
        >>> net = LeNet5()
        >>> ms.save_checkpoint(net, "./lenet.ckpt",
        ...                    choice_func=lambda x: x.startswith("conv") and not x.startswith("conv1"))
        >>> param_dict1 = ms.load_checkpoint("./lenet.ckpt")
        >>> print(param_dict1)
        {'conv2.weight': Parameter (name=conv2.weight, shape=(16, 6, 5, 5), dtype=Float32, requires_grad=True)}
        >>> params_list = net.trainable_params()
        >>> ms.save_checkpoint(params_list, "./lenet_list.ckpt",
        ...                    choice_func=lambda x: x.startswith("conv") and not x.startswith("conv2"))
        >>> param_dict2 = ms.load_checkpoint("./lenet_list.ckpt")
        >>> print(param_dict2)
        {'conv1.weight': Parameter (name=conv1.weight, shape=(6, 1, 5, 5), dtype=Float32, requires_grad=True)}
        >>> ms.save_checkpoint(param_dict2, "./lenet_dict.ckpt")
        >>> param_dict3 = ms.load_checkpoint("./lenet_dict.ckpt")
        >>> print(param_dict3)
        {'conv1.weight': Parameter (name=conv1.weight, shape=(6, 1, 5, 5), dtype=Float32, requires_grad=True)}
    """  # noqa: E501  # the printed lines are as long as they are
    options = dict(kwargs)
    check_save_obj(save_obj)
    _check_bool("integrated_save", integrated_save)
    is_async = _async_save(async_save)
    check_append_dict(append_dict)
    _check_key("enc_key", enc_key, "enc_mode", enc_mode)
    choice = checked_choice(choice_func)
    crc = _check_bool("crc_check", options.pop("crc_check", False))
    durable = _check_bool("durable", options.pop("durable", True))
    reuse = options.pop("reuse", None)
    num_threads = _number("num_threads", options.pop("num_threads", None), 1, _MAX_THREADS)
    block_bytes = _number(
        "block_bytes", options.pop("block_bytes", None), _MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES
    )
    progress = progress_function(options.pop("progress", None))
    snapshot = _snapshot(options.pop("snapshot", None), is_async)
    stream = options.pop("stream", None)
    handle = None if stream is None else raw_stream(stream)
    trace = _check_bool("trace", options.pop("trace", False))
    _check_format(options.pop("format", "ckpt"))
    remove_redundancy = options.pop("remove_redundancy", None)
    if remove_redundancy is not None:
        _check_bool("remove_redundancy", remove_redundancy)
    for ignored in ("incremental", "global_step_num", "step_num"):
        options.pop(ignored, None)
    _check_no_more("save_checkpoint", options)
    path = path_to_save(ckpt_file_name)
    retired = None if reuse is None else path_to_reuse(reuse, path)
    if is_async:
        prepare_snapshots()

    running_saves.raise_untold()
    job = _core.prepare_save(
        records_of(save_obj, choice, append_dict, integrated_save),
        resolved,
        path,
        crc=crc,
        durable=durable,
        key=enc_key,
        mode=enc_mode,
        num_threads=num_threads,
        block_bytes=block_bytes,
        snapshot=snapshot,
        stream=handle,
        trace=trace,
        reuse=retired,
    )
    save = SaveJob(job, path, is_async, progress)
    if is_async:
        running_saves.start(save)
        if job.is_synchronous():
            running_saves.wait_until_staged(save)
        return save
    running_saves.run(save)
    return None


def load_checkpoint(
    ckpt_file_name: str | os.PathLike[str],
    net: object = None,
    strict_load: bool = False,
    filter_prefix: str | list[str] | tuple[str, ...] | None = None,
    dec_key: bytes | None = None,
    dec_mode: str = "AES-GCM",
    specify_prefix: str | list[str] | tuple[str, ...] | None = None,
    choice_func: Callable[[str], object] | None = None,
    crc_check: bool | None = None,
    **kwargs: Unpack[LoadOptions],
) -> ParameterDict:
    """Load a checkpoint file, ours or MindSpore's.

    A save of this process to the same file that is still running is waited for. Of the parameters
    only those selected are read (of an encrypted file of ours, the blocks that hold them; one of
    MindSpore's is read whole, as nothing vouches for the blocks that are left out).

    Args:
        ckpt_file_name: The file; its name must end with 'ckpt'.
        net: A Cell to load the parameters into, as `load_param_into_net` does.
        strict_load: For `load_param_into_net`.
        filter_prefix: Load nothing whose name starts with this, or with one of these.
        dec_key: The key of an encrypted file.
        dec_mode: The `enc_mode` that the file was saved with; only looked at with a key.
        specify_prefix: Load only what has a name that starts with this, or with one of these.
        choice_func: Asked with each name; the parameter is loaded if the answer is true. Not asked
            if `specify_prefix` or `filter_prefix` is given, as in MindSpore.
        crc_check: Whether to verify the checksum of all records. None verifies one that is there
            when everything is read anyway: not with `mmap`, nor for a part of the file. True always
            does, which reads everything, and refuses a file without a checksum. False never does.
            Verifying takes about a fifth of a plain load from the page cache.
        **kwargs: Further options:

            - device (str): Where to load the tensors to, such as 'cuda:0' or 'ascend:1': through
              pinned staging buffers, blocks being read and opened meanwhile. Default: None, host
              memory.
            - framework (str): What to return the tensors as: 'cupy', 'torch', 'jax', 'numpy' or
              'mindspore', which must be installed. MindSpore's tensors can be on the one device
              of its process only (mindspore.set_device). Default: None, Parameters.
            - mmap (bool): Whether to return views of the file instead of reading it: at once, and
              whatever is written to the arrays stays in memory. Their memory is not aligned. The
              file must not be truncated as long as they live (saving over it with this package is
              no harm). Not for encrypted files. Default: False.
            - num_threads (int): How many threads work, 1 to 1024. Default: None, as many as pay
              off.
            - format (str): Only 'ckpt'.
            - remove_redundancy (bool): Accepted for MindSpore's sake, without effect.

    Returns:
        dict. Name -> Parameter, or the framework's tensor, in the order of the file; a saved str is
        a str, and one of MindSpore's map tensors a list of three NumPy arrays: keys, values,
        status.

    Raises:
        TypeError: An argument of a wrong type, or an unknown keyword.
        ValueError: An argument out of range, or there is no such file, as in MindSpore; or, with
            `device`, MINDCKPT_STAGING_BYTES in the environment makes no sense.
        CheckpointError: The file is damaged, or no checkpoint, or nothing of it is selected (a
            ValueError).
        ChecksumError: The checksum tells of damage, or there is none with `crc_check=True` (a
            CheckpointError). Damage in a CBC file is a DecryptionError, whatever tells of it.
        DecryptionError: A wrong key or mode, or the file was tampered with (a CheckpointError).
        OSError: The file system said no.
        RuntimeError: `framework` has no such elements, or would make others of them (JAX of 64-bit
            ones, while jax_enable_x64 is off); the message names the parameter. Or a parameter does
            not fit the net; the net is as it was. Or a device can't be
            used, or failed; see `load_param_into_net` for what a net then holds.

    Example:
        >>> import mindckpt as ms
        >>> import numpy as np
        >>> ms.save_checkpoint({"w": np.ones((2, 3), np.float32), "note": "step 5"}, "step.ckpt")
        >>> ms.load_checkpoint("step.ckpt")
        {'w': Parameter (name=w, shape=(2, 3), dtype=Float32, requires_grad=True), 'note': 'step 5'}
    """
    options = dict(kwargs)
    if net is not None:
        check_net(net)
    _check_bool("strict_load", strict_load)
    chosen = name_filter(specify_prefix, filter_prefix, choice_func)
    _check_key("dec_key", dec_key, "dec_mode", dec_mode)
    if crc_check is not None:
        _check_bool("crc_check", crc_check)
    mmap = _check_bool("mmap", options.pop("mmap", False))
    if mmap and dec_key is not None:
        raise ValueError("mmap can't show an encrypted file: leave out mmap or dec_key")
    place = destinations(options.pop("device", None), options.pop("framework", None))
    if place is not None and mmap:
        raise ValueError("mmap shows the file's own bytes: leave out mmap, or device and framework")
    if place is not None and net is not None:
        raise ValueError("net has its parameters where they are: leave out device and framework")
    num_threads = _number("num_threads", options.pop("num_threads", None), 1, _MAX_THREADS)
    _check_format(options.pop("format", "ckpt"))
    _check_bool("remove_redundancy", options.pop("remove_redundancy", False))
    _check_no_more("load_checkpoint", options)
    path, reader = _opened(ckpt_file_name, dec_key, dec_mode)
    if choice_func is not None and dec_key is not None:
        # The names have been decrypted, but their blocks not checked yet: a function of the user's
        # is to see none that somebody else may have put there.
        reader.read([], [], check_crc=False, num_threads=num_threads)
    entries = reader.entries
    indices = [i for i, entry in enumerate(entries) if chosen is None or chosen(entry[0])]
    if not indices:
        if dec_key is not None:
            # The names may be what a damaged block decrypts to: then that is what is wrong.
            reader.read([], [], check_crc=False, num_threads=num_threads)
        raise CheckpointError(
            f"{path!r} holds no parameters"
            if not entries
            else f"none of the {len(entries)} entries of {path!r} is selected"
        )
    if crc_check is None:
        crc_check = reader.has_crc and not mmap and len(indices) == len(entries)
    selected = [entries[i] for i in indices]
    dtypes = dtypes_of(selected, path)
    if place is not None:
        return place.load(reader, entries, indices, dtypes, path, crc_check, num_threads)
    if mmap:
        if crc_check:
            reader.read([], [], check_crc=True, num_threads=num_threads)
        arrays = reader.map(indices, dtypes)
    else:
        arrays = reader.read(indices, dtypes, check_crc=crc_check, num_threads=num_threads)
    loaded = to_parameter_dict(selected, arrays, path)
    if net is not None:
        assign(net, loaded, strict_load)
    return loaded


def _opened(
    ckpt_file_name: str | os.PathLike[str], dec_key: bytes | None, dec_mode: str
) -> tuple[str, _core.Reader]:
    """The file to load and a reader of it, once no save of this process is running to it.

    Somebody may hold a lease on it for a moment, as a save does on the file that it reuses; or give
    its name, or the link that it is, to another file just now.
    """
    deadline = time.monotonic() + _LEASE_SECONDS
    pause = 0.001
    while True:
        path = path_to_load(ckpt_file_name)
        running_saves.wait_for(path)
        check_file(ckpt_file_name)
        try:
            return path, _core.Reader(path, dec_key, dec_mode)
        except (BlockingIOError, FileNotFoundError, InterruptedError):
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def load_param_into_net(
    net: object, parameter_dict: dict[str, Any], strict_load: bool = False
) -> tuple[list[str], list[str]]:
    """Put parameters into a net, by name; where they do not fit, the net is as it was.

    Parameters of the net on a device are overwritten in place, as kernels and optimizers know that
    memory, and there is no second copy of them. So only a device that fails meanwhile leaves a net
    that is neither old nor new: load it again before it is used, on a device that works.

    The parameters of the net share the memory of those in the dict where nothing is converted, as
    in MindSpore. A shape may differ by ones at its end only: (12, 2048, 1, 1) goes into (12, 2048).

    Args:
        net: A Cell, ours or MindSpore's.
        parameter_dict: What `load_checkpoint` returned. A list, which is a map tensor, goes into
            MindSpore's MapParameter of its name; other lists, and str values, are passed over.
        strict_load: If False, types are converted among the floating ones, and among the signed
            integers; and parameters of the net that the dict lacks are looked for under longer
            names that end with theirs.

    Returns:
        tuple of two lists of names. Those of the net that were not loaded, because the dict lacks
        them or has a str or a list for them; and those of the dict that were not loaded (or only
        under a longer name).

    Raises:
        TypeError: `net` is not a Cell, or `parameter_dict` not a dict of str -> Parameter, str or
            list, or `strict_load` not a bool.
        RuntimeError: A parameter has another shape, or a type that is not converted; or memory on a
            device that copies can't begin at. The net is as it was. Or a device failed: the message
            names the parameter whose memory may be partly overwritten, and how many were set.

    Example:
        >>> import mindckpt as ms
        >>> import numpy as np
        >>> net = ms.nn.Cell()
        >>> net.w = ms.Parameter(np.zeros(2, np.float32))
        >>> net.b = ms.Parameter(np.zeros(1, np.float32))
        >>> param_dict = {"w": ms.Parameter(np.ones(2, np.float32)), "note": "step 5"}
        >>> ms.load_param_into_net(net, param_dict)
        (['b'], ['note'])
        >>> net.w.asnumpy()
        array([1., 1.], dtype=float32)
    """
    check_net(net)
    if not isinstance(parameter_dict, dict):
        raise TypeError(f"parameter_dict must be a dict, got {type_name(parameter_dict)}")
    return assign(net, parameter_dict, _check_bool("strict_load", strict_load))


def _check_bool(argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be a bool, got {type_name(value)}")
    return value


def _async_save(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise TypeError(f"async_save must be a bool, 'thread' or 'process', got {type_name(value)}")
    if value not in ("thread", "process"):
        raise ValueError(f"async_save must be a bool, 'thread' or 'process', got {value!r}")
    return True


def _snapshot(value: object, is_async: bool) -> str:
    if value is None:
        return "auto" if is_async else "none"
    if not isinstance(value, str):
        raise TypeError(f"snapshot must be a str, got {type_name(value)}")
    if value not in _SNAPSHOTS:
        raise ValueError(f"snapshot must be one of {', '.join(_SNAPSHOTS)}, got {value!r}")
    if not is_async:
        raise ValueError("snapshot is for async_save: without it nothing needs to be kept")
    return value


def _check_key(key_argument: str, key: object, mode_argument: str, mode: object) -> None:
    """Refuse a wrong key or mode without ever showing the key."""
    if key is not None and not isinstance(key, bytes):
        raise TypeError(f"{key_argument} must be bytes or None, got {type_name(key)}")
    if not isinstance(mode, str):
        raise TypeError(f"{mode_argument} must be a str, got {type_name(mode)}")
    if key is None:
        return
    if mode not in _KEY_BYTES:
        raise ValueError(f"{mode_argument} must be one of {', '.join(_KEY_BYTES)}, got {mode!r}")
    if len(key) not in _KEY_BYTES[mode]:
        lengths = " or ".join(map(str, _KEY_BYTES[mode]))
        raise ValueError(f"{key_argument} must have {lengths} bytes for {mode}, got {len(key)}")


def _number(argument: str, value: object, least: int, most: int) -> int:
    """An int argument; 0, with which the engine picks, for None."""
    if value is None:
        return 0
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # which is what this finds out
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{argument} must be an int or None, got {type_name(value)}")
    if not least <= number <= most:
        raise ValueError(f"{argument} must be in [{least}, {most}], got {number}")
    return number


def _check_format(value: object) -> None:
    if not isinstance(value, str) or value != "ckpt":
        raise ValueError(f"format must be 'ckpt', the only one here, got {value!r}")


def _check_no_more(function: str, options: dict[str, object]) -> None:
    if options:
        raise TypeError(f"{function}() got an unexpected keyword argument {next(iter(options))!r}")
