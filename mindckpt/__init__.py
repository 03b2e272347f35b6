"""Fast, safe checkpoints in MindSpore's format: `save_checkpoint`, `load_checkpoint` and more.

Importing this package imports NumPy and ml_dtypes, but no framework, and starts no thread.
"""

from mindckpt import dtypes, nn
from mindckpt._core import __version__
from mindckpt.checkpoint import load_checkpoint, load_param_into_net, save_checkpoint
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
from mindckpt.job import SaveJob, async_ckpt_thread_status
from mindckpt.parameter import Parameter, Tensor

__all__ = [
    "CheckpointError",
    "ChecksumError",
    "DType",
    "DecryptionError",
    "Parameter",
    "SaveJob",
    "Tensor",
    "__version__",
    "async_ckpt_thread_status",
    "bfloat16",
    "bool_",
    "complex64",
    "complex128",
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
    "load_param_into_net",
    "nn",
    "qint4x2",
    "save_checkpoint",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]
