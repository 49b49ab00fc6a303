"""Every argument of DiffFace's program, by its name there, with its true default and what it does."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from models.diffface.compat import LITERAL_START, CompatConfig
from models.diffface.constants import DIFFUSION_STEPS, RESPACING, SKIP_TIMESTEPS
from models.diffface.experts.weights import IDENTITY_WEIGHT, ExpertWeights
from models.swap.config import FrozenConfig

AUGMENTATIONS: Final = 8
SEED: Final = 404
REPEATS: Final = 4
MASKING_THRESHOLD: Final = 30
"""Defaults of the published program."""

GRADIENT_LIMIT: Final = 25.0
"""Our own: about 11,000 as the L2 norm of a picture of 256 px. Where the variance is 0.2 it moves a pixel by
5, more than all of -1..1."""

FEATHER: Final = 1 / 128
"""Our own: 2 px at 256."""


class DiffFaceSettings(FrozenConfig):
    """How faces are swapped. The first thirteen fields are arguments of the program; the rest is ours."""

    batch_size: int = Field(
        default=1,
        ge=1,
        description="Swaps that go through the networks together. Changes time and memory, not results; the "
        "published program works with 1 alone.",
    )
    skip_timesteps: int = Field(
        default=SKIP_TIMESTEPS,
        ge=0,
        description="First steps that are left out: sampling starts from the target with noise of the step "
        "after them. More of them keep more of the target.",
    )
    ddim: bool = Field(
        default=False, description="DDIM's steps without noise of their own, in place of DDPM's."
    )
    timestep_respacing: str = Field(
        default=RESPACING,
        description="Steps out of the 1000 of training: a number between 1 and 1000, `ddimN`, or the steps "
        "of equal sections, as `10,15,20`.",
    )
    no_enforce_background: bool = Field(
        default=False,
        description="The target is blended in only while t is above masking_threshold, and in the end stands "
        "where the swapped picture's own parse shows no face. Otherwise pixels outside the target's mask "
        "stay the target's, exactly.",
    )
    aug_num: int = Field(
        default=AUGMENTATIONS,
        ge=1,
        description="Views of the face the identity expert averages over: one as it is, the others moved, "
        "turned and tilted at random.",
    )
    seed: int = Field(default=SEED, ge=0, description="Start of all random numbers.")
    gpu_id: int = Field(default=0, ge=0, description="Number of the GPU; with device cpu it has no meaning.")
    output_path: str = Field(
        default="output", min_length=1, description="Folder of all files; made if absent."
    )
    output_file: str = Field(
        default="output.png", description="Name the six-panel figures derive theirs from; a PNG."
    )
    iterations_num: int = Field(
        default=REPEATS, ge=1, description="Independent repeats of every pair, ranked by identity distance."
    )
    masking_threshold: int = Field(
        default=MASKING_THRESHOLD,
        ge=0,
        description="Step at which the face is free of the target: until then the mask grows from 0 to 1. A "
        "larger number frees it earlier: more of the source, less of the target's structure.",
    )
    loss_weight: float = Field(
        default=IDENTITY_WEIGHT,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the identity expert. Too much of it makes artefacts.",
    )
    device: Literal["cuda", "cpu"] = Field(
        default="cuda",
        description="cuda is the GPU of gpu_id, and an error where it is absent; cpu is the CPU.",
    )
    expert_weights: ExpertWeights = Field(
        default_factory=ExpertWeights,
        description="Weights of the other experts, and the gaze expert's window.",
    )
    gradient_limit: float = Field(
        default=GRADIENT_LIMIT,
        gt=0,
        allow_inf_nan=False,
        description="Largest root mean square over pixels and channels of one swap's guidance gradient at a "
        "step; larger ones are scaled down to it.",
    )
    feather: float = Field(
        default=FEATHER,
        ge=0,
        le=0.25,
        description="Softness of the face's edge without enforced background, as a part of the picture's "
        "side; 0 is a hard edge.",
    )
    compat: CompatConfig = Field(
        default_factory=CompatConfig, description="Published faults that are repeated; none by default."
    )

    @field_validator("timestep_respacing", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("timestep_respacing")
    @classmethod
    def _respacing(cls, value: str) -> str:
        value = value.replace(" ", "")
        if not re.fullmatch(r"(ddim)?[1-9]\d*|[1-9]\d*(,[1-9]\d*)+", value):
            raise ValueError(
                f"timestep_respacing {value!r} must be a number of steps such as 100, ddim25, or the steps "
                "of equal sections such as 10,15,20"
            )
        if _steps(value) > DIFFUSION_STEPS:
            raise ValueError(f"timestep_respacing {value!r} asks for more than {DIFFUSION_STEPS} steps")
        return value

    @field_validator("output_file")
    @classmethod
    def _png(cls, value: str) -> str:
        if PurePath(value).name != value or PurePath(value).suffix.lower() != ".png":
            raise ValueError(
                f"output_file {value!r} must be the name of a PNG file, such as output.png; its folder is "
                "output_path"
            )
        return value

    @model_validator(mode="after")
    def _steps_are_left(self) -> DiffFaceSettings:
        if self.skip_timesteps >= self.steps:
            raise ValueError(
                f"skip_timesteps {self.skip_timesteps} leaves none of the {self.steps} steps of "
                f"timestep_respacing {self.timestep_respacing!r}; skip fewer"
            )
        if self.masking_threshold >= self.mask_start:
            why = (
                "75, as in the published program"
                if self.compat.literal_75
                else (f"{self.steps} steps less {self.skip_timesteps} skipped")
            )
            raise ValueError(
                f"masking_threshold {self.masking_threshold} must be below {self.mask_start} ({why}): the "
                "mask must have a step to grow in"
            )
        return self

    @property
    def steps(self) -> int:
        """Steps after respacing, N."""
        return _steps(self.timestep_respacing)

    @property
    def sampled_steps(self) -> int:
        """Steps that are taken, n = N - skip_timesteps; they are numbered n - 1 ... 0."""
        return self.steps - self.skip_timesteps

    @property
    def mask_start(self) -> int:
        """What the soft mask counts from: n, or the published 75."""
        return LITERAL_START if self.compat.literal_75 else self.sampled_steps

    @property
    def requested_device(self) -> str:
        """The device as `resources.compute.device.choose_device` takes it; that one says why, or refuses."""
        return "cpu" if self.device == "cpu" else f"cuda:{self.gpu_id}"


def _steps(respacing: str) -> int:
    """Steps in all of a valid respacing."""
    return sum(int(part) for part in respacing.removeprefix("ddim").split(","))
