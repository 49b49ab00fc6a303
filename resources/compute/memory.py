"""When a device's memory is not enough: knowing the error when it comes, and giving back what is not in use.

torch is not imported here: where nobody has loaded it, nothing can have filled a device.
"""

from __future__ import annotations

import gc
import sys

MARKERS = ("out of memory", "can't allocate memory", "failed to allocate memory", "not enough memory")
"""How torch on Apple's GPUs and on the CPU, ONNX Runtime and the CUDA driver say it, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a device or of the machine, was not enough for what was asked."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(marker in str(error).lower() for marker in MARKERS)


def free_device_memory() -> None:
    """Give back device memory that torch keeps for later; call it when the error itself is gone.

    An error's frames hold the tensors of the attempt that failed.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.empty_cache()
