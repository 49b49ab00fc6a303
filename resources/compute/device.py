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

DEVICES = "auto, cpu, mps, cuda, xpu, cuda:<index> or xpu:<index>"
"""What a device may be called."""

VISIBLE = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "xpu": "ZE_AFFINITY_MASK",
    "mps": "the version of macOS, which must be 14 or later",
}
"""What decides whether a process sees a GPU, by kind."""


class DeviceUnavailable(RuntimeError):
    """The device that was asked for does not exist here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """Where models run.

    Attributes:
        device: a torch device string: `cpu`, `mps`, `cuda:<index>` or `xpu:<index>`.
        dtype: the fastest torch dtype that this device has in hardware and that needs no loss scaling; a
            stage whose numerics ask for `auto` computes in it.
        reason: one sentence, logged when the choice is made.
    """

    device: str
    dtype: DtypeName
    reason: str


def choose_device(requested: str = "auto") -> DeviceChoice:
    """Choose a device and log why.

    Args:
        requested: `auto` (a GPU if there is one, of whatever kind torch was built for), `cpu`, `mps`, `cuda`
            or `xpu` (the first GPU), `cuda:<index>` or `xpu:<index>`. AMD's GPUs are called `cuda` by torch.

    Raises:
        DeviceUnavailable: a GPU was asked for and torch does not see it.
        ValueError: `requested` is none of the above.
    """
    match = re.fullmatch(r"(auto|cpu|mps|cuda|xpu)|(cuda|xpu):(\d+)", requested)
    if match is None:
        raise ValueError(f"device {requested!r} is unknown; use {DEVICES}")
    choice = _choose(requested, match[1] or match[2], int(match[3] or 0))
    logger.info("device %s, %s: %s", choice.device, choice.dtype, choice.reason)
    return choice


def _choose(requested: str, kind: str, index: int) -> DeviceChoice:
    if kind == "cpu":
        return DeviceChoice("cpu", "float32", "the CPU was asked for")
    import torch

    present = torch.accelerator.current_accelerator(check_available=True)
    if present is None and kind == "auto":
        return DeviceChoice("cpu", "float32", f"no GPU can be used: {_why_no_gpu()}")
    if present is None or kind not in ("auto", present.type):
        absence = _why_no_gpu() if present is None else f"this torch's GPUs are called {present.type}"
        raise DeviceUnavailable(
            f"{requested} was asked for, but {absence}; mend that, or ask for cpu or auto"
        )
    count = torch.accelerator.device_count()
    if index >= count:
        raise DeviceUnavailable(
            f"{requested} was asked for, but torch sees {count} GPU(s), {present.type}:0 to "
            f"{present.type}:{count - 1}; ask for one of these, or look at {VISIBLE[present.type]}"
        )
    asked = "the first GPU that torch sees" if requested == "auto" else f"{requested} was asked for"
    if present.type == "mps":
        return DeviceChoice(
            "mps", "float32", f"{asked}: Apple's GPU, used in float32 unless half is asked for"
        )
    name = torch.get_device_module(present).get_device_name(index)
    if _has_bfloat16(present.type, index):
        return DeviceChoice(
            f"{present.type}:{index}", "bfloat16", f"{asked}: {name}, with bfloat16 in hardware"
        )
    return DeviceChoice(
        f"{present.type}:{index}", "float32", f"{asked}: {name}, which has no bfloat16 in hardware"
    )


def _has_bfloat16(kind: str, index: int) -> bool:
    """Whether a GPU computes in bfloat16 itself; others would emulate it, slowly."""
    import torch

    if kind == "xpu":
        return torch.xpu.is_bf16_supported(including_emulation=False)
    # NVIDIA's came with compute capability 8.0; every AMD GPU that ROCm supports has it
    return torch.version.hip is not None or torch.cuda.get_device_capability(index) >= (8, 0)


def _why_no_gpu() -> str:
    import torch

    built = torch.accelerator.current_accelerator()
    if built is None:
        return f"torch {torch.__version__} is built without CUDA and for no other GPU"
    look = {"cuda": "nvidia-smi or rocm-smi and ", "xpu": "xpu-smi and "}.get(built.type, "")
    return f"torch {torch.__version__} sees no GPU (look at {look}{VISIBLE[built.type]})"


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
