"""Faults of the published DiffFace program that can be switched on again, one by one.

The default is the corrected behaviour. `CompatConfig.published()` has all of them, for comparison with
published results; random numbers are drawn otherwise than there, so results agree in distribution and not in
bits. docs/diffface.md has the table of what each fault was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field

from models.swap.config import FrozenConfig

LITERAL_START: Final = 75
"""Where the published soft mask starts, whatever was asked for: 100 steps less 25 skipped."""

COLOUR_MAP_ALPHA: Final = {1: 1.0, 2: 0.0, 3: 0.0, 4: 0.6, 5: 0.8, 10: 76 / 255, 11: 0.4, 12: 1.0, 13: 0.0}
"""Red of the published parse's colour by class, over 255; it was used as opacity. Other classes: 0."""


class CompatConfig(FrozenConfig):
    """Which published faults are repeated. All off: the corrected behaviour."""

    ddim_unblended: bool = Field(
        default=False, description="With ddim the target is not blended in at any step, at the end alone."
    )
    literal_75: bool = Field(
        default=False,
        description="The soft mask counts from 75, which is right for 100 steps with 25 skipped only.",
    )
    double_parser_normalisation: bool = Field(
        default=False,
        description="The parser's input is normalised twice, the second time by (x - 0.5) / 0.5.",
    )
    nearest_identity_crop: bool = Field(
        default=False,
        description="Faces are shown to the identity network as the whole frame, unaligned; the source's "
        "shrunk by nearest pixels, and embedded anew from it.",
    )
    fixed_gaze_box: bool = Field(
        default=False,
        description="Eyes are cut as a box of 5 px beside the corners and 9 px up and down (at 256 px), "
        "stretched to the network's input.",
    )
    washed_out_gaze: bool = Field(
        default=False,
        description="Eyes in 0..1 are scaled by 128 and raised by 128 on their way to the network.",
    )
    colour_map_alpha: bool = Field(
        default=False,
        description="Without enforced background, the opacity of the face is the red of its parse's colour.",
    )
    reblend_at_t: bool = Field(
        default=False,
        description="The target is blended in at the noise of step t into a picture of step t - 1.",
    )
    prediction_as_result: bool = Field(
        default=False,
        description="The prediction of the last step is the result, not its sample, so that its guidance is "
        "lost.",
    )
    index_by_scaling: bool = Field(
        default=False,
        description="Guidance finds the step's number as t N / 1000, which is right for evenly spaced steps "
        "only.",
    )
    unclipped_gradient: bool = Field(default=False, description="The guidance gradient has no limit.")
    glasses_outside_mask: bool = Field(
        default=False, description="Glasses do not belong to the face that is swapped."
    )
    overwriting_ranks: bool = Field(
        default=False, description="Of ranked files with equal distance the last one stays."
    )
    restarting_pairs: bool = Field(
        default=False,
        description="Unequal numbers of sources and targets are paired by position, both lists starting "
        "again when the shorter one ends.",
    )

    @classmethod
    def published(cls) -> CompatConfig:
        """Every fault switched on: what `--compat` means."""
        return cls(**dict.fromkeys(cls.model_fields, True))

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the faults that are switched on."""
        return tuple(name for name in type(self).model_fields if getattr(self, name))


def position_pairs(sources: int, targets: int, compat: CompatConfig) -> list[tuple[int, int]]:
    """Which source meets which target when two sorted folders are paired by position.

    Args:
        sources, targets: how many there are.
        compat: with `restarting_pairs` both lists start again when the shorter one ends, and there is a pair
            for every source; targets that are never reached stay out.

    Raises:
        ValueError: there is none of either, or, without that fault, the numbers differ.
    """
    if min(sources, targets) < 1:
        raise ValueError(f"{sources} sources and {targets} targets make no pair")
    if compat.restarting_pairs:
        shorter = min(sources, targets)
        return [(number % shorter, number % shorter) for number in range(sources)]
    if sources != targets:
        raise ValueError(
            f"{sources} sources and {targets} targets cannot be paired by position; "
            "give as many of one as of the other, or a list of pairs"
        )
    return [(number, number) for number in range(sources)]


def sorted_pictures(folder: Path) -> list[Path]:
    """JPEG and PNG files of a folder by name, as positions are counted.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise FileNotFoundError(f"there is no JPEG or PNG file in {folder}")
    return found
