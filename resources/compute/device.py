"""Choosing the device and its number format, aloud.

A GPU that was asked for and is absent is an error, never a quiet run on the CPU. torch is imported inside the
functions, so that planning and reports start without it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

DtypeName = Literal["float32", "bfloat16"]


class DeviceUnavailable(RuntimeError):
    """The device that was asked for does not exist here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """Where models run.

    Attributes:
        device: a torch device string: `cpu` or `cuda:<index>`.
        dtype: name of the torch dtype for weights and activations.
        reason: one sentence, logged when the choice is made.
    """

    device: str
    dtype: DtypeName
    reason: str


def choose_device(requested: str = "auto") -> DeviceChoice:
    """Choose a device and log why.

    Args:
        requested: `auto` (a GPU if there is one), `cpu`, `cuda` (the first GPU) or `cuda:<index>`.

    Raises:
        DeviceUnavailable: a GPU was asked for and torch does not see it.
        ValueError: `requested` is none of the above.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", requested)
    if match is None:
        raise ValueError(f"device {requested!r} is unknown; use auto, cpu, cuda or cuda:<index>")
    choice = _choose(requested, int(match[1] or 0))
    logger.info("device %s, %s: %s", choice.device, choice.dtype, choice.reason)
    return choice


def _choose(requested: str, index: int) -> DeviceChoice:
    if requested == "cpu":
        return DeviceChoice("cpu", "float32", "the CPU was asked for")
    import torch

    absence = _why_no_gpu()
    if requested == "auto" and absence:
        return DeviceChoice("cpu", "float32", f"no GPU can be used: {absence}")
    if absence:
        raise DeviceUnavailable(
            f"{requested} was asked for, but {absence}; mend that, or ask for cpu or auto"
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceUnavailable(
            f"{requested} was asked for, but torch sees {count} GPU(s), cuda:0 to cuda:{count - 1}; "
            "ask for one of these, or look at CUDA_VISIBLE_DEVICES"
        )
    name = torch.cuda.get_device_name(index)
    asked = "the first GPU that torch sees" if requested == "auto" else f"{requested} was asked for"
    # bfloat16 in hardware came with compute capability 8.0; older GPUs would emulate it, slowly.
    if torch.cuda.get_device_capability(index) >= (8, 0):
        return DeviceChoice(f"cuda:{index}", "bfloat16", f"{asked}: {name}, with bfloat16 in hardware")
    return DeviceChoice(f"cuda:{index}", "float32", f"{asked}: {name}, which has no bfloat16 in hardware")


def _why_no_gpu() -> str | None:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available() or not torch.cuda.device_count():
        return f"torch {torch.__version__} sees no GPU (look at nvidia-smi and CUDA_VISIBLE_DEVICES)"
    return None


def limit_threads(count: int) -> None:
    """Let this process and those it starts compute with `count` threads.

    Two libraries with a thread per core each fight over the cores: a face embedding took 14 ms with one
    thread and 0.8 s with two on a busy machine of two cores. Libraries that are loaded already are told
    directly, those that come later read the environment.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"at least one thread is needed, not {count}")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)
    if "cv2" in sys.modules:
        import cv2

        cv2.setNumThreads(count)
    logger.info("threads per process limited to %d", count)
