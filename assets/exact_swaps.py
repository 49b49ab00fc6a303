"""Exact swaps to learn from: the pairs that a list names for training, with the answers that a world knows.

An answer is a picture beside the list or, where none was written, what the world renders of the pair's
parameters. Pairs with a photograph that the release does not train on are left out: nobody who is evaluated
is learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from assets.condition import OWN_CONDITION, ConditionNames
from assets.evaluation_pairs import SMALL_PICTURES
from assets.latents import encode_pictures
from assets.training import TrainingConfig
from assets.training_data import Prepared, ReleasedPhotos
from models.faces.frame import square_picture
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.pairs import pinned_pairs
from resources.photos.decoding import decode_upright
from resources.photos.world_parameters import PairParameters

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from models.swap.base import SwapBase

RENDERED_SIDES = 4
"""Answers are rendered at so many times the model's side and averaged down, as photographs are."""
AT_ONCE = 64
HOW_TO_LIST = (
    "`orchard ingest PHOTOS --swap-pairs LIST.csv` takes a list with a fourth column `use`; `orchard demo` "
    "writes one"
)


def exact_swap_data(
    lake: Lake,
    release: Artifact,
    base: SwapBase,
    config: TrainingConfig,
    names: ConditionNames = OWN_CONDITION,
    report: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """The list's pairs for training as exact swaps, as the teacher's recipe wants them.

    Raises LakeError when there are none, when an answer is neither a picture nor one that this world renders,
    or when the recipe wants what the lake does not have.
    """
    from models.swap.exact_data import ExactSwapData

    recipe = config.recipe
    if recipe.occlusion:
        raise LakeError("exact swaps are learnt as they are; set occlusion to 0 in the teacher's recipe")
    photos = ReleasedPhotos(lake, release, base, config, names)
    place = {image_id: row for row, image_id in enumerate(photos.rows.image_ids)}
    listed = pinned_pairs(lake, "training", ["source_image_id", "target_image_id", "truth", "world"])
    pairs = [row for row in listed if row["source_image_id"] in place and row["target_image_id"] in place]
    if not pairs:
        raise LakeError(
            f"none of {len(listed)} pairs that are listed for training has both photographs in the release, "
            f"so there is no exact swap to learn from; {HOW_TO_LIST}"
        )
    if len(pairs) < len(listed):
        report(f"{len(listed) - len(pairs)} of {len(listed)} pairs for training are not of this release")
    sources, targets = (
        np.array([place[row[f"{side}_image_id"]] for row in pairs]) for side in ("source", "target")
    )
    data = ExactSwapData(
        np.concatenate(
            [
                encode_pictures(base.codec, exact_answers(pairs[start : start + AT_ONCE], photos.size))
                for start in range(0, len(pairs), AT_ONCE)
            ]
        ),
        sources,
        targets,
        photos.rows.target_NLC,
        photos.rows.condition_NLC,
        photos.rows.identity_ND,
        photos.rows.people,
        reference_ND=photos.reference(),
        points_N52=photos.points(),
        held_out=recipe.validation_images if recipe.validates else 0,
        seed=recipe.seed,
    )
    return Prepared(data, data.validation() if recipe.validates else None)


def exact_answers(pairs: Sequence[dict[str, Any]], size: int) -> list[np.ndarray]:
    """Exact answers of pair rows (pair_id, truth, world) at `size` px, RGB uint8 (size, size, 3), in order.

    Raises LakeError for a pair with neither picture nor parameters, or with those of another world.
    """
    rendered = iter(_rendered([row for row in pairs if row["truth"] is None], size * RENDERED_SIDES))
    pictures = [
        next(rendered) if row["truth"] is None else decode_upright(row["truth"], SMALL_PICTURES)
        for row in pairs
    ]
    return [square_picture(picture, size) for picture in pictures]


def _rendered(pairs: Sequence[dict[str, Any]], side: int) -> np.ndarray:
    from models.worlds.parameters import Attributes, Identities
    from models.worlds.world import WORLD_VERSION, render

    known: list[PairParameters] = []
    for row in pairs:
        if row["world"] is None:
            raise LakeError(
                f"the exact answer of {row['pair_id']} is not known: its line in the list names no picture, "
                "and no world.json beside the list tells how to render it"
            )
        known.append(PairParameters.model_validate_json(row["world"]))
        if known[-1].world_version != WORLD_VERSION:
            raise LakeError(
                f"{row['pair_id']} is of version {known[-1].world_version} of the world, this Orchard "
                f"renders {WORLD_VERSION}; write new portraits and ingest them"
            )
    if not known:
        return np.empty((0, side, side, 3), np.uint8)
    people = Identities(np.array([item.source_identity for item in known], np.float32))
    return render(
        people, Attributes(np.array([item.attributes for item in known], np.float32)), side
    ).images_NHWC
