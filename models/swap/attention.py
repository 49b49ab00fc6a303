"""Which attention kernel runs: torch's own choice, or one that the user named, checked before any sampling.

Every attention of the swap transformer goes through `attention`. Nothing here needs a mask: an independent
condition is computed as two attentions (`condition_branch`), so kernels without masks serve it too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger(__name__)

AttentionBackend = Literal["sdpa", "math", "flash", "efficient"]
"""`sdpa` leaves the kernel to torch, call by call; the others allow that one kernel and no other."""

RequestedAttention = Literal["auto", "sdpa", "math", "flash", "efficient"]
"""What a user may ask for: a backend, or `auto`, which `choose_attention` turns into one."""

_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class AttentionUnavailable(RuntimeError):
    """The attention backend that was asked for does not run here; the message says why and what to do."""


@dataclass(frozen=True)
class AttentionChoice:
    """A backend that runs here, and one sentence why it was chosen."""

    backend: AttentionBackend
    reason: str


def attention(query_BLHD: Tensor, key_BLHD: Tensor, value_BLHD: Tensor, backend: AttentionBackend) -> Tensor:
    """Return softmax(query key^T / sqrt(head_dim)) value as (B, L, heads x head_dim), in the query's dtype.

    Keys and values may have another length than the queries. Raises RuntimeError where `backend` cannot run;
    `choose_attention` finds that out beforehand.
    """
    query, key, value = (part.transpose(1, 2) for part in (query_BLHD, key_BLHD, value_BLHD))
    if backend == "sdpa":
        out = F.scaled_dot_product_attention(query, key, value)
    else:
        # Chosen here and not around the whole model: gradient checkpointing calls blocks again later.
        with sdpa_kernel(_KERNELS[backend]):
            out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2).flatten(2, 3).to(query_BLHD.dtype)


def choose_attention(
    requested: RequestedAttention, device: torch.device, dtype: torch.dtype, head_dims: Iterable[int]
) -> AttentionChoice:
    """Choose a backend, try it with heads of each of these widths, and log the reason.

    `auto` takes flash attention on a GPU in half precision where it runs, and torch's own choice elsewhere. A
    backend that was named is that one or an error, never another.

    Raises AttentionUnavailable when the backend does not run on this device and dtype.
    """
    where = f"{device.type} in {str(dtype).removeprefix('torch.')}"
    if requested == "auto":
        half = dtype in (torch.float16, torch.bfloat16)
        if device.type != "cpu" and half and not any(_refusals("flash", device, dtype, head_dims)):
            choice = AttentionChoice("flash", f"auto: flash attention runs on {where}")
        else:
            choice = AttentionChoice("sdpa", f"auto: torch chooses the kernel call by call on {where}")
    else:
        for width, refusal in _refusals(requested, device, dtype, head_dims):
            raise AttentionUnavailable(
                f"attention backend {requested!r} does not run on {where} with heads of width {width}: "
                f"{refusal} Ask for 'auto' or 'sdpa'."
            )
        choice = AttentionChoice(requested, f"asked for, and it runs on {where}")
    logger.info("attention %s: %s", choice.backend, choice.reason)
    return choice


def _refusals(
    backend: AttentionBackend, device: torch.device, dtype: torch.dtype, head_dims: Iterable[int]
) -> Iterable[tuple[int, str]]:
    """Yield (head width, torch's explanation) for each width at which one small attention fails."""
    for width in head_dims:
        tokens = torch.zeros(1, 8, 2, width, device=device, dtype=dtype)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                attention(tokens, tokens, tokens, backend)
            except RuntimeError as error:
                lines = [str(error), *(str(warning.message) for warning in said)]
                yield width, " ".join(line.split(" (Triggered")[0].strip() for line in lines)
