"""`diffface_swaps`: every evaluation pair swapped by DiffFace, a denoiser guided by experts.

Nothing is trained for it here, and no recipe makes a difference: it has a table of its own with the pairs of
the default recipe's release, and stands beside the methods of `swaps` in every recipe's evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from assets.diffface_config import DIFFFACE, DIFFFACE_SWAPS, DiffFaceSwapsConfig, settings_on
from assets.stage import Input, Row, RowOutcome, RowStage, StageContext
from assets.swapping import SOURCE, TARGET, marked_row, pair_preview, row_seed
from models.faces.frame import square_picture
from resources.lake.schema import Column
from resources.photos.reasons import RowError

if TYPE_CHECKING:  # torch loads seconds later, when something is swapped
    from assets.diffface_frames import DiffFacePair

ROWS_AT_ONCE = 32
"""Pairs whose photographs are decoded together; how many are computed together is a setting."""


def diffface_swaps_stage(config: DiffFaceSwapsConfig) -> RowStage:
    """The stage `diffface_swaps`, one row per pair. Every picture is marked as made."""

    def load(context: StageContext) -> DiffFaceModel:
        return DiffFaceModel(config, context)

    return RowStage(
        name=DIFFFACE_SWAPS,
        code_version="2",
        table=DIFFFACE_SWAPS,
        description="Evaluation pairs swapped by DiffFace: a denoiser guided by four experts.",
        config=config,
        inputs=(
            # it lists the pairs; what they are made from are the photographs
            Input("release", tracked=False),
            Input("faces", ("image", "consent"), via=SOURCE),
            Input("faces", ("image", "consent"), via=TARGET),
            Input("landmarks", ("landmarks_68",), via=SOURCE),
            Input("landmarks", ("landmarks_68",), via=TARGET),
            Input("masks", ("parsing", "visible_face"), via=TARGET),
            Input(config.identity, (config.identity,), via=SOURCE),
        ),
        weights=config.roles.all,
        outputs=(
            Column("swap", pa.binary(), picture=True),
            Column("identity_distance", pa.float32(), quantum=1e-3),
        ),
        load=load,
        batch_size=ROWS_AT_ONCE,
        preview=lambda row: pair_preview(row, "swap"),
    )


class DiffFaceModel:
    """The networks, loaded once."""

    def __init__(self, config: DiffFaceSwapsConfig, context: StageContext) -> None:
        from models.diffface.networks import open_networks

        files = {role: context.weight(role) for role in config.roles.all}
        self.config, self.settings = config, settings_on(config.settings, context.device)
        self.networks = open_networks(config.networks, files, context.device)
        self.model_id = f"{DIFFFACE}-{context.weights[config.roles.denoiser].sha256[:12]}"

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One outcome per pair, in order; of several repeats the one nearest to the source's identity."""
        from assets.diffface_frames import swap_pairs, why_stopped

        found = [self._pair(row) for row in rows]
        outcomes: list[RowOutcome] = [item if isinstance(item, RowError) else {} for item in found]
        pairs = {place: item for place, item in enumerate(found) if not isinstance(item, RowError)}
        if not pairs:
            return outcomes
        result = swap_pairs(self.networks, list(pairs.values()), self.settings)
        for index, (place, pair) in enumerate(pairs.items()):
            best, row = result.best(index), rows[place]
            outcomes[place] = why_stopped(result, index) or {
                "swap": marked_row(
                    self._at_size(best.image_HWC, pair, row), row, self.model_id, DIFFFACE_SWAPS
                ),
                "identity_distance": best.distance,
            }
        return outcomes

    def _pair(self, row: Row) -> DiffFacePair | RowError:
        """The pair at the denoiser's side, or why there is nothing to swap."""
        from assets.diffface_frames import diffface_pair

        try:
            return diffface_pair(
                _of_side(row, SOURCE),
                _of_side(row, TARGET),
                row[f"{SOURCE}.{self.config.identity}"],
                side=self.networks.side,
                number=row_seed(row["pair_id"]),
                compat=self.settings.compat,
            )
        except RowError as error:
            return error

    def _at_size(self, swapped: np.ndarray, pair: DiffFacePair, row: Row) -> np.ndarray:
        """The swap in the frame in which methods are compared; what DiffFace left alone is the photograph."""
        from assets.diffface_frames import mask_at

        size = self.config.size
        if swapped.shape[0] == size:
            return swapped
        frame = square_picture(row[f"{TARGET}.image"], size)
        changed = mask_at(pair.mask | (swapped != pair.target).any(axis=2), size)
        return np.where(changed[..., None], square_picture(swapped, size), frame).astype(np.uint8)


def _of_side(row: Row, side: str) -> dict[str, Any]:
    return {
        name.removeprefix(f"{side}."): value for name, value in row.items() if name.startswith(f"{side}.")
    }
