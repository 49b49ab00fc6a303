"""What one process of a stage asks of a cluster."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class StageResources(BaseModel):
    """What one process of a stage takes of a node; nothing that it says changes a result.

    A cluster without a node that has all of it is an error at once. The engine `local` does not read it: it
    has one process, and `--device` says where its models run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_gpus: float = Field(
        default=0.0,
        ge=0.0,
        description="GPUs per process; a fraction lets several processes share one, above 1 whole ones only.",
    )
    num_cpus: float = Field(
        default=1.0, ge=0.0, description="CPU cores per process; its libraries get as many threads."
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Main memory per process, bytes; None: not counted, so that only cores and GPUs bound "
        "how many processes a node holds.",
    )

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"num_gpus is {value}; above 1 it must be a whole number")
        return value

    def told(self) -> str:
        """In words, e.g. `0.25 GPU, 1 CPU`."""
        parts = [f"{self.num_gpus:g} GPU", f"{self.num_cpus:g} CPU"]
        if self.memory_bytes is not None:
            parts.append(f"{self.memory_bytes / 2**30:.1f} GiB of memory")
        return ", ".join(parts)
