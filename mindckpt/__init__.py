"""Fast, safe checkpoints in MindSpore's format: `save_checkpoint`, `load_checkpoint` and more.

Importing this package imports NumPy and ml_dtypes, but no framework, and starts no thread.
"""

from mindckpt import dtypes, nn
from mindckpt._core import __version__
from mindckpt.checkpoint import load_checkpoint, load_param_into_net, save_checkpoint
from mindckpt.device import (
    devices,
    load_device_plugin,
    release_staging,
    set_snapshot_limit,
    set_staging_limit,
    staging_stats,
)
from mindckpt.dtypes import (
    DType,
    bfloat16,
    bool_,
    complex64,
    complex128,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    hifloat8,
    int8,
    int16,
    int32,
    int64,
    qint4x2,
    uint8,
    uint16,
    uint32,
    uint64,
)
from mindckpt.errors import CheckpointError, ChecksumError, DecryptionError
from mindckpt.job import Milestone, SaveJob, async_ckpt_thread_status
from mindckpt.leftovers import remove_leftovers
from mindckpt.parameter import Parameter, Tensor

__all__ = [
    "CheckpointError",
    "ChecksumError",
    "DType",
    "DecryptionError",
    "Milestone",
    "Parameter",
    "SaveJob",
    "Tensor",
    "__version__",
    "async_ckpt_thread_status",
    "bfloat16",
    "bool_",
    "complex64",
    "complex128",
    "devices",
    "dtypes",
    "float8_e4m3fn",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "hifloat8",
    "int8",
    "int16",
    "int32",
    "int64",
    "load_checkpoint",
    "load_device_plugin",
    "load_param_into_net",
    "nn",
    "qint4x2",
    "release_staging",
    "remove_leftovers",
    "save_checkpoint",
    "set_snapshot_limit",
    "set_staging_limit",
    "staging_stats",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]
