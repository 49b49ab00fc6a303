"""The flags of `orchard swap`, APPLE's among them under their own names, and what they mean together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from assets.photo_swaps.pairs import PhotoPair, ffhq_pairs, folder_pairs, published_conditions
from assets.photo_swaps.settings import FaceSelection, SwapSettings, condition_of_type
from pipeline.options import UsageError
from resources.lake.errors import LakeError
from resources.video.suffixes import CLIP_SUFFIXES


class Method(StrEnum):
    """Which model swaps."""

    STUDENT = "student"
    TEACHER = "teacher"
    TEACHER_INVERSION = "teacher_inversion"
    MESH_WARP = "mesh_warp"
    DIFFFACE = "diffface"


class ConditionName(StrEnum):
    """APPLE's `--condition_type`."""

    BLUR_LANDMARK = "blur_landmark"
    BLUR_LANDMARK_IRIS = "blur_landmark_iris"
    MASK_LANDMARK_IRIS = "mask_landmark_iris"


class InverseCondition(StrEnum):
    """APPLE's `--inverse_cond`."""

    NO_ID = "noID_trgCond"
    FULL = "trgID_trgCond"
    IDENTITY_ONLY = "trgID_noCond"
    NONE = "noID_noCond"


class Crop(StrEnum):
    """Data sets whose frame an aligned crop follows."""

    FFHQ = "ffhq"
    VGGFACE2 = "vggface2"


PHOTO, CLIP, SAMPLING, APPLE = "Photographs", "Clips", "Sampling", "As in APPLE's scripts"
"""Panels of `orchard swap --help`."""


def flag(*names: str, panel: str, help: str, min: float | None = None) -> typer.models.OptionInfo:
    """An option under its names, in a panel of the help; underscores may be written as dashes."""
    spelled = [*names, *(name.replace("_", "-") for name in names if "_" in name)]
    return typer.Option(*spelled, rich_help_panel=panel, help=help, min=min)


ConditionOption = Annotated[
    ConditionName | None,
    flag(
        "--condition_type",
        panel=APPLE,
        help="Condition image of the teacher. Without it (and without --method) the student swaps, which "
        "sees the target itself.",
    ),
]
ScaleOption = Annotated[
    float | None,
    flag("--guidance_scale", panel=SAMPLING, min=0.0, help="Distilled guidance. The profile's unless given."),
]
ImageScaleOption = Annotated[
    float | None,
    flag(
        "--image_guidance_scale",
        panel=SAMPLING,
        min=0.0,
        help="1 is off; contrast with a black condition. May be combined with --id_guidance_scale.",
    ),
]
IdScaleOption = Annotated[
    float | None,
    flag(
        "--id_guidance_scale",
        panel=SAMPLING,
        min=0.0,
        help="Above 1 strengthens the source's identity; attributes suffer. Below 1, which the original "
        "does not offer, weakens it.",
    ),
]
InverseStepsOption = Annotated[
    int | None,
    flag(
        "--inverse_steps", panel=SAMPLING, min=1, help="Steps inverted and sampled again; all unless given."
    ),
]
InverseConditionOption = Annotated[
    InverseCondition | None,
    flag("--inverse_cond", panel=SAMPLING, help="What the teacher sees while the target is inverted."),
]
SecondOrderOption = Annotated[
    bool, flag("--second_order", panel=SAMPLING, help="Midpoint steps in the inversion.")
]


def two_places(
    positional: Sequence[Path | None], source: Path | None, target: Path | None
) -> tuple[Path | None, Path | None]:
    """Source and target, each named by its option or standing in its order. Raises UsageError for more."""
    given = [path for path in positional if path is not None]
    chosen = [option or (given.pop(0) if given else None) for option in (source, target)]
    if given:
        raise UsageError(f"{given[0]}: SOURCE and TARGET are given already, by --source and --target")
    return chosen[0], chosen[1]


@dataclass(frozen=True)
class SwapFlags:
    """What was written on the command line, as far as it decides pictures."""

    method: Method | None
    condition_type: ConditionName | None
    guidance_scale: float | None
    image_guidance_scale: float | None
    id_guidance_scale: float | None
    steps: int | None
    inverse_steps: int | None
    inverse_cond: InverseCondition | None
    second_order: bool
    use_gaze: bool
    raw_frame: bool | None
    faces: str | None
    source_face: str | None
    crop: Crop | None
    feather: float | None
    masked_source: bool
    seed: int

    @property
    def _inversion(self) -> dict[str, object]:
        given = {
            "inverse_steps": self.inverse_steps,
            "inversion": None if self.inverse_cond is None else self.inverse_cond.value,
            "second_order": self.second_order or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def settings(self, *, ffhq: bool) -> SwapSettings:
        """The settings these flags mean; `ffhq` is APPLE's tree, whose pictures are frames already.

        Raises UsageError for flags that contradict each other.
        """
        method = self._chosen_method()
        raw_frame = ffhq and method not in ALONE if self.raw_frame is None else self.raw_frame
        for_photos = {"--faces": self.faces, "--crop": self.crop, "--feather": self.feather}
        if raw_frame and (given := [name for name, value in for_photos.items() if value is not None]):
            raise UsageError(f"{given[0]} is about faces that are cut out; a raw frame is swapped as a whole")
        source_face = None if self.source_face is None else _selection("--source-face", self.source_face)
        if source_face is not None and (source_face.choice == "all" or len(source_face.indices) > 1):
            raise UsageError("--source-face takes one face: largest, index:N or closest:PHOTO")
        scales = {
            "guidance_scale": self.guidance_scale,
            "image_guidance_scale": self.image_guidance_scale,
            "id_guidance_scale": self.id_guidance_scale,
            "steps": self.steps,
        }
        values = {
            "method": method.value,
            "condition_type": None if self.condition_type is None else self.condition_type.value,
            "overrides": {name: value for name, value in scales.items() if value is not None}
            | self._inversion,
            "raw_frame": raw_frame,
            "faces": _selection("--faces", self.faces or "largest"),
            "source_face": source_face,
            "masked_source": self.masked_source,
            "seed": self.seed,
        }
        values |= {} if self.crop is None else {"crop": self.crop.value}
        values |= {} if self.feather is None else {"feather": self.feather}
        return SwapSettings.model_validate(values)

    def _chosen_method(self) -> Method:
        if self.use_gaze:
            raise UsageError(
                "--use_gaze asks for a gaze embedding, which no published checkpoint was trained with; gaze "
                "is carried by the iris dots of --condition_type blur_landmark_iris"
            )
        if self.method is not None and self.method in ALONE:
            self._refuse_what_models_take(self.method)
            return self.method
        inversion = self._inversion
        if self.method is None:
            if inversion:
                return Method.TEACHER_INVERSION
            return Method.STUDENT if self.condition_type is None else Method.TEACHER
        if self.method is Method.STUDENT and self.condition_type is not None:
            raise UsageError(
                "the student sees the target itself; --condition_type belongs to --method teacher or "
                "teacher_inversion"
            )
        if inversion and self.method is not Method.TEACHER_INVERSION:
            raise UsageError(
                f"--method {self.method.value} starts from noise; --inverse_steps, --inverse_cond and "
                "--second_order belong to --method teacher_inversion"
            )
        return self.method

    def _refuse_what_models_take(self, method: Method) -> None:
        for_models = {
            "--condition_type": self.condition_type,
            "--guidance_scale": self.guidance_scale,
            "--image_guidance_scale": self.image_guidance_scale,
            "--id_guidance_scale": self.id_guidance_scale,
            "--steps": self.steps,
            "a flag about inversion": self._inversion or None,
            "--raw-frame": self.raw_frame or None,
            "--feather": self.feather if method is Method.MESH_WARP else None,
            "--masked-source": self.masked_source or None,
        }
        refuse_alone(method, for_models)


ALONE = {
    Method.MESH_WARP: "has no model, frame or fade of its own",
    Method.DIFFFACE: "is guided by experts and takes its own arguments, --diffface NAME=VALUE",
}
"""Methods without checkpoint, base and lake, and why they do not take what models take."""


def refuse_alone(method: str, given: Mapping[str, object]) -> None:
    """Raise UsageError when any of these is not None, for a method that stands alone knows none of it."""
    if names := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"--method {method} {ALONE[Method(method)]}; leave out {names[0]}")


def _selection(option: str, text: str) -> FaceSelection:
    try:
        return FaceSelection.parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


@dataclass(frozen=True)
class SwapPlace:
    """Where photographs come from and results go to."""

    source: Path | None
    target: Path | None
    out: Path | None
    base_path: Path | None
    ffhq_base_path: Path | None
    run_name: str | None
    ckpt: str | None
    render_conditions: bool

    @property
    def clip(self) -> bool:
        """Whether the target is a clip. Raises UsageError for what clips do not know."""
        if self.target is None or self.target.suffix.lower() not in CLIP_SUFFIXES or self.target.is_dir():
            return False
        if self.base_path is not None or self.ffhq_base_path is not None:
            raise UsageError(
                "a clip is swapped by itself: --base_path and --ffhq_base_path are for photographs"
            )
        if self.source is None or self.source.is_dir():
            raise UsageError("a clip takes one photograph as its source: --source PHOTO --target CLIP")
        if self.out is not None and self.out.suffix.lower() != ".mp4":
            raise UsageError(f"{self.out}: made clips are MP4 files")
        if self.out is not None and self.out.exists() and self.out.samefile(self.target):
            raise UsageError(f"{self.out} is the target; write the result to another file")
        return True

    @property
    def many(self) -> bool:
        """Whether there are folders of photographs. Raises UsageError where the places contradict."""
        if self.base_path is None and (self.run_name or self.ckpt):
            raise UsageError("--run_name and --ckpt name a folder below --base_path; give that too")
        if self.base_path is not None and self.out is not None:
            raise UsageError("results go to --out or below --base_path, not to both")
        if self.ffhq_base_path is not None:
            if self.source is not None:
                raise UsageError("give SOURCE and TARGET or --ffhq_base_path, not both")
            self._need_folder()
            return True
        if self.source is None or self.target is None:
            raise UsageError(
                "give SOURCE and TARGET, two photographs or two folders, or --ffhq_base_path ROOT"
            )
        if self.source.is_dir() != self.target.is_dir():
            raise UsageError("SOURCE and TARGET must both be photographs or both be folders")
        if self.source.is_dir():
            self._need_folder()
        elif self.base_path is None and self.out is not None and self.out.suffix.lower() != ".png":
            raise UsageError(
                f"{self.out}: results are PNG; JPEG would change every pixel that was not swapped"
            )
        return self.source.is_dir() or self.base_path is not None

    def _need_folder(self) -> None:
        if self.out is None and self.base_path is None:
            raise UsageError(
                "many pairs need a folder for the results: --out FOLDER, or --base_path as APPLE"
            )

    def pairs(self, settings: SwapSettings) -> tuple[list[PhotoPair], str]:
        """The pairs, and a sentence on where condition images come from."""
        if self.ffhq_base_path is not None:
            root, conditions = self.ffhq_base_path, None
            if settings.condition_type is not None and settings.raw_frame and not self.render_conditions:
                conditions = published_conditions(root, condition_of_type(settings.condition_type))
            pairs = ffhq_pairs(root, conditions)
            if conditions is not None:
                return pairs, f"condition images are read from {conditions}"
        elif self.source is not None and self.target is not None and self.source.is_dir():
            pairs = folder_pairs(self.source, self.target)
        elif self.source is not None and self.target is not None:
            pairs = [PhotoPair(self.target.stem, self.source, self.target)]
        else:
            raise LakeError("there are no photographs to swap")
        if settings.sees_condition_image:
            return pairs, "condition images are drawn from this profile's annotation"
        if settings.method == "mesh_warp":
            return pairs, "mesh_warp is classical: nothing is learnt, and no checkpoint is read"
        if settings.method == "diffface":
            return pairs, "DiffFace is guided by experts: no checkpoint is read"
        return pairs, "the student sees the target itself"

    def folder(self, model_id: str, settings: SwapSettings, scales: tuple[float, float, float]) -> Path:
        """Where the results of many pairs go: --out, or APPLE's folder below --base_path.

        Args:
            model_id: names the run where --run_name or --ckpt do not.
            settings: tell the last folder.
            scales: guidance, image guidance and identity guidance that are used.
        """
        if self.base_path is None:
            assert self.out is not None  # `many` has asked for it
            return self.out
        guidance, image, identity = (float(scale) for scale in scales)
        run = (
            f"{self.run_name or settings.method}_ckpt{self.ckpt or model_id}_gs{guidance}_imgGS{image}"
            f"_idGS{identity}"
        )
        return self.base_path / "results" / run / "ffhq_eval"
