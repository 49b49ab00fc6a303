"""What decides a swapped picture besides the photographs and the model: one frozen, typed object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.faces.condition import ConditionRecipe
from models.faces.crops import CropStyle
from models.swap.sampling_config import InversionConditioning, SamplingConfig

SwapMethod = Literal["student", "teacher", "teacher_inversion", "mesh_warp", "diffface"]
"""`student` sees the target itself; the teacher a condition image, from noise or from the inverted target.
`mesh_warp` is classical, without any model that swaps; `diffface` is a denoiser guided by experts."""

ConditionType = Literal["blur_landmark", "blur_landmark_iris", "mask_landmark_iris"]
"""Names of condition images on APPLE's command lines. "blur" is the picture squeezed to 8x8 and back."""

FaceChoiceName = Literal["largest", "all", "index", "closest"]


class FaceSelection(BaseModel):
    """Which faces of a photograph are meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: FaceChoiceName = Field(default="largest", description="How faces are chosen.")
    indices: tuple[int, ...] = Field(
        default=(), description="For index: places from left to right, from 0, among the faces found."
    )
    photo: Path | None = Field(
        default=None, description="For closest: a photograph of the wanted person; its largest face counts."
    )

    @classmethod
    def parse(cls, text: str) -> FaceSelection:
        """Read `largest`, `all`, `index:N`, `index:N,M` or `closest:PHOTO`. Raises ValueError otherwise."""
        choice, _, rest = text.partition(":")
        if choice in ("largest", "all") and not rest:
            return cls.model_validate({"choice": choice})
        if choice == "index" and rest and all(part.isdecimal() for part in rest.split(",")):
            return cls(choice="index", indices=tuple(dict.fromkeys(int(part) for part in rest.split(","))))
        if choice == "closest" and rest:
            return cls(choice="closest", photo=Path(rest))
        raise ValueError(
            f"{text!r} chooses no face: use largest, all, index:N (from 0, left to right; index:0,2 for "
            "several) or closest:PHOTO"
        )


class SwapSettings(BaseModel):
    """How photographs are swapped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: SwapMethod = Field(description="Which model swaps, and how.")
    condition_type: ConditionType | None = Field(
        default=None, description="The teacher's condition image; None is the profile's own."
    )
    overrides: Mapping[str, float | int | bool | InversionConditioning] = Field(
        default={}, description="Fields of the profile's `SamplingConfig` that are replaced."
    )
    raw_frame: bool = Field(
        default=False,
        description="Whether the whole target is squeezed to the model's square and the square is the "
        "result, as in APPLE's scripts; otherwise aligned faces are swapped and pasted back.",
    )
    faces: FaceSelection = Field(default=FaceSelection(), description="Faces of the target, in photo mode.")
    source_face: FaceSelection | None = Field(
        default=None, description="Face of the source; None is the profile's own choice."
    )
    crop: CropStyle = Field(default="ffhq", description="Data set whose frame the aligned crops follow.")
    feather: float = Field(
        default=0.2,
        ge=0,
        description="Width of the fade inside the edge of a pasted face, in distances between its eyes.",
    )
    masked_source: bool = Field(
        default=False, description="Embed the source with all but its face black, as in APPLE's training."
    )
    seed: int = Field(default=0, ge=0, description="Decides the noise, with each pair's name.")

    @property
    def inverts(self) -> bool:
        """Whether sampling starts from the inverted target."""
        return self.method == "teacher_inversion"

    @property
    def sees_condition_image(self) -> bool:
        """Whether the model sees a condition image instead of the target itself."""
        return self.method in ("teacher", "teacher_inversion")

    @property
    def stands_alone(self) -> bool:
        """Whether the method needs no checkpoint, no base and no lake."""
        return self.method in ("mesh_warp", "diffface")

    def sampling(self, plain: SamplingConfig, inversion: SamplingConfig) -> SamplingConfig:
        """The profile's sampling of this method with the overrides. Raises ValueError where they clash."""
        config = inversion if self.inverts else plain
        try:
            return SamplingConfig.model_validate({**config.model_dump(), **self.overrides})
        except ValidationError as error:
            raise ValueError("; ".join(str(item["msg"]) for item in error.errors())) from error

    def recipe(self, profiles: ConditionRecipe) -> ConditionRecipe:
        """The condition image that is rendered: the profile's, or its dots in the variant asked for."""
        if self.condition_type is None:
            return profiles
        return condition_of_type(self.condition_type, profiles)


def condition_of_type(name: ConditionType, like: ConditionRecipe | None = None) -> ConditionRecipe:
    """The recipe that APPLE's `--condition_type` means, with the paper's dots or those of `like`."""
    squeezed = name.startswith("blur_")
    return (like or ConditionRecipe()).model_copy(
        update={
            "variant": "downsample" if squeezed else "mask",
            "downsample_size": ConditionRecipe().downsample_size,
            "draw_landmarks": True,
            "draw_iris": name.endswith("_iris"),
        }
    )
