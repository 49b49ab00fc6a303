"""How an annotation network computes: number format, memory layout, compiling. What a profile may ask for.

Nothing here needs torch; `models.numerics` carries it out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["float32", "bfloat16", "float16"]
RequestedPrecision = Literal["auto", "float32", "bfloat16", "float16"]


class Numerics(BaseModel):
    """Of one stage. Each choice is reported with its reason when the network is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: RequestedPrecision = Field(
        default="auto",
        description="Format of products and convolutions; weights, sums over many numbers and results stay "
        "float32 (autocast). auto: bfloat16 on a GPU that has it in hardware, float32 elsewhere, and float32 "
        "wherever a stage's results are finer than bfloat16 (its `exact`). Part of the fingerprint as it was "
        "asked for, unless it is auto.",
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Channels of a picture side by side in memory. auto: on where a GPU computes in half "
        "precision, whose convolutions want it so. Changes nothing but rounding; no part of the fingerprint.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the network by torch.compile when it is first called: a minute then, less time "
        "per batch for shapes that come again. An error where no compiler is. No part of the fingerprint.",
    )

    def asked(self) -> dict[str, str]:
        """What of it was asked for and changes results: an entry of a fingerprint, or none."""
        return {} if self.precision == "auto" else {"precision": self.precision}
