"""Numerics carried out: one loaded network is moved, laid out, compiled and put under autocast, in one place.

The network keeps its class and attributes; one method of it (`forward`, as a rule) is replaced by one that
takes and gives float32 and computes as was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.numerics_config import Numerics, Precision

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Network = TypeVar("Network", bound=nn.Module)


class CompileUnavailable(RuntimeError):
    """Compiling was asked for and does not work here; the message says what to do."""


@dataclass(frozen=True)
class ChosenNumerics:
    """What a network computes with on its device.

    Attributes:
        precision: format of products and convolutions.
        channels_last: whether pictures and kernels are laid out with channels last.
        compile: whether the network is compiled.
        reasons: a sentence for each of the three.
    """

    precision: Precision
    channels_last: bool
    compile: bool
    reasons: tuple[str, str, str]


def choose_numerics(asked: Numerics, device: str, preferred: Precision, exact: str = "") -> ChosenNumerics:
    """Turn what was asked for into what is done on a device.

    Args:
        asked: of the stage.
        device: torch device string.
        preferred: the format that the device is fastest in without losing range, see
            `resources.compute.device.DeviceChoice`.
        exact: why the stage's results want float32 where nothing else was asked for; empty where they do not.
    """
    kind = torch.device(device).type
    if asked.precision != "auto":
        precision, why = asked.precision, "asked for"
    elif preferred == "float32":
        precision, why = "float32", f"auto: {device} has no faster format that is as safe"
    elif exact:
        precision, why = "float32", f"auto: {exact}"
    else:
        precision, why = preferred, f"auto: {device} has it in hardware"
    half = precision != "float32"
    if asked.channels_last == "auto":
        channels_last = half and kind != "cpu"
        layout = "auto: " + (
            "convolutions in half precision want it on a GPU"
            if channels_last
            else "no gain without half precision on a GPU"
        )
    else:
        channels_last, layout = asked.channels_last == "on", "asked for"
    return ChosenNumerics(
        precision,
        channels_last,
        asked.compile,
        (
            f"{precision} ({why})",
            f"channels last {'on' if channels_last else 'off'} ({layout})",
            "compiled (asked for)" if asked.compile else "not compiled (not asked for)",
        ),
    )


def prepare(network: Network, chosen: ChosenNumerics, device: str, method: str = "forward") -> Network:
    """Move a network to a device and let one of its methods compute as chosen; returns the same network.

    The method must take tensors and give tensors, tuples or named tuples of them; floating-point results come
    out as float32. Weights stay float32, so that nothing is lost where a layer needs them whole.

    Raises:
        CompileUnavailable: compiling was asked for, and there is no compiler for this device.
    """
    network.to(device)
    if chosen.channels_last:
        # its stub knows no overload for the format alone
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    entry: Callable[..., Any] = getattr(network, method)
    if chosen.compile:
        require_compiler(torch.device(device).type)
        entry = torch.compile(entry)
    dtype, kind = DTYPES[chosen.precision], torch.device(device).type

    def compute(*arguments: Any, **named: Any) -> Any:
        if chosen.channels_last:
            arguments = tuple(_laid_out(value) for value in arguments)
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            return _whole(entry(*arguments, **named))

    setattr(network, method, compute)
    return network


@cache
def require_compiler(kind: str) -> None:
    """Compile and run one line on a kind of device.

    Raises CompileUnavailable with torch's reason and the remedy.
    """

    def line(x: Tensor) -> Tensor:
        return torch.relu(x + 1)

    try:
        torch.compile(line)(torch.zeros(8, device=kind))
    except Exception as error:  # whatever torch, the compiler or its absence raise: all of it is told
        remedy = (
            "install a C++ compiler (`apt-get install g++`) or name one in CXX"
            if kind == "cpu"
            else "install the triton package that this torch names"
        )
        told = " ".join(str(error).split())[:300]
        raise CompileUnavailable(
            f"compiling was asked for, and torch cannot compile for {kind}: {type(error).__name__}: {told}. "
            f"To mend it: {remedy}, or set `compile` to false in the profile"
        ) from error


def _laid_out(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _whole(value: Any) -> Any:
    """Half-precision tensors as float32, in whatever holds them."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [_whole(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
