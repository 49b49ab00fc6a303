"""How a swap model is run, as opposed to what it is: settings that change speed and memory, not results.

They are no part of a model's identity or of a result's fingerprint.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.swap.attention import RequestedAttention
from models.swap.config import FrozenConfig


class ExecutionConfig(FrozenConfig):
    """Run-time settings of the swap transformer; results differ by floating-point rounding alone."""

    attention: RequestedAttention = Field(
        default="auto",
        description="Attention kernel: 'auto' chooses and says so, 'sdpa' leaves it to torch, any other is "
        "that kernel or an error.",
    )
    condition_cache: Literal["auto", "off"] = Field(
        default="auto",
        description="Compute the condition branch once per picture where the weights allow it "
        "(independent_condition), or with every step.",
    )
    reader_processes: int = Field(
        default=0,
        ge=0,
        description="Processes that read a training's batches ahead, for each process that trains; 0 reads "
        "in a thread of it.",
    )
