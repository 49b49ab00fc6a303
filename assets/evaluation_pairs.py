"""Pairs with an exact answer: what swaps are measured against, in `evaluation` and in `frontier`.

A pair's truth is a picture, and where a world's folder was ingested, the parameters it was rendered from.
With these the regions of lips, make-up and glasses are exact, and others can be rendered in the same light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from assets.condition import row_frame
from resources.lake.digest import digest_bytes, digest_json
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.lake.pairs import pinned_pairs
from resources.photos.decoding import DecodeLimits, decode_upright
from resources.photos.pairs import PairUse
from resources.photos.world_parameters import PairParameters

if TYPE_CHECKING:  # the renderer's compiler loads seconds later, when something is measured
    from models.metrics.exact_truth import ExactTruth

SMALL_PICTURES = DecodeLimits(min_side=1)
CHECKED_SIZE = 128
"""Truths are rendered again at this side, px, to see that the parameters are theirs."""

MOST_DIFFERENCE = 2.0
"""By so much a truth rendered again may differ from the stored one at the comparison's size, mean levels of
255; both were reduced to it. Another person in the same photograph differs by some six."""


@dataclass(frozen=True)
class EvaluationPair:
    """One pair with its truth, all pictures RGB uint8 (S, S, 3).

    `mask` bool (S, S) is the face and `landmarks_68` (68, 2) pixels the points, both as the target was
    annotated. `world` are the parameters of the truth, None where nobody knows them.
    """

    pair_id: str
    source_id: str
    target_id: str
    target: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    landmarks_68: np.ndarray
    world: PairParameters | None = None


def truths_content(lake: Lake, use: PairUse = "evaluation") -> bytes:
    """Digest of all that decides the exact answers of one use: pictures, and the parameters behind them."""
    rows = pinned_pairs(lake, use, ["truth", "world"])
    return digest_json(
        [(row["pair_id"], digest_bytes(row["truth"] or b"").hex(), row["world"]) for row in rows]
    )


def evaluation_pairs(
    lake: Lake, size: int, swapped: Sequence[str], limit: int | None = None
) -> list[EvaluationPair]:
    """Those of the pairs `swapped` (ids) that have an exact answer, at `size` px, ordered by pair id."""
    rows = lake.swap_pairs.snapshot().find(sorted(set(swapped)), ["source_image_id", "target_image_id"])
    known = {row["pair_id"]: row for row in _with_truth(lake, list(rows))}
    wanted = [rows[pair_id] for pair_id in sorted(known)][:limit]
    names = ["image", "parsing", "visible_face", "landmarks_68", "iris_10"]
    photos = lake.faces.snapshot().find([row["target_image_id"] for row in wanted], names)
    return [
        _pair(row, known[row["pair_id"]], photos[row["target_image_id"]], size)
        for row in wanted
        if row["target_image_id"] in photos
    ]


def _with_truth(lake: Lake, pair_ids: Sequence[str]) -> list[dict[str, Any]]:
    found = lake.swap_pairs.snapshot().find(pair_ids, ["truth", "world"])
    return [row for row in found.values() if row["truth"] is not None]


def _pair(request: dict[str, Any], known: dict[str, Any], photo: dict[str, Any], size: int) -> EvaluationPair:
    arrays = {name: np.asarray(photo[name], np.float32) for name in ("landmarks_68", "iris_10")}
    frame = row_frame({**photo, **arrays, "image": decode_upright(photo["image"])}, size)
    truth = decode_upright(known["truth"], SMALL_PICTURES)
    return EvaluationPair(
        pair_id=request["pair_id"],
        source_id=request["source_image_id"],
        target_id=request["target_image_id"],
        target=frame.image,
        truth=cv2.resize(truth, (size, size), interpolation=cv2.INTER_AREA),
        mask=frame.face_mask,
        landmarks_68=frame.landmarks_68,
        world=None if known["world"] is None else PairParameters.model_validate_json(known["world"]),
    )


def why_not_exact(pairs: Sequence[EvaluationPair]) -> str:
    """Why the answers of these pairs cannot be rendered again; empty where they can."""
    unknown = sum(pair.world is None for pair in pairs)
    if unknown:
        return (
            f"{unknown} of {len(pairs)} truths are pictures without a world.json beside their list, so their "
            "regions and the people to tell them apart from cannot be rendered"
        )
    from models.worlds.world import WORLD_VERSION

    others = sorted({pair.world.world_version for pair in pairs if pair.world} - {WORLD_VERSION})
    if others:
        return (
            f"truths were rendered by version {', '.join(others)} of the world, this Orchard renders "
            f"{WORLD_VERSION}; write new portraits and ingest them"
        )
    return ""


def pairs_truth(pairs: Sequence[EvaluationPair], size: int) -> ExactTruth:
    """The exact truth of pairs of which all parameters are known, ready for `exact_scores`.

    Truth and target are the stored pictures, reduced as the models' own inputs are; regions and the other
    people are rendered. Raises LakeError when parameters do not give the stored truth.
    """
    from models.metrics.exact_truth import exact_truth
    from models.worlds.parameters import Attributes, Identities
    from models.worlds.world import render

    known = [pair.world for pair in pairs if pair.world is not None]
    if len(known) != len(pairs):
        raise ValueError("pairs without parameters have no exact truth; ask why_not_exact first")
    sources, targets, attributes = (
        np.array([getattr(item, name) for item in known], np.float32)
        for name in ("source_identity", "target_identity", "attributes")
    )
    truth = np.stack([pair.truth for pair in pairs])
    again = render(Identities(sources), Attributes(attributes), max(size, CHECKED_SIZE)).images_NHWC
    for pair, picture in zip(pairs, again, strict=True):
        reduced = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        off = float(np.abs(reduced.astype(np.float32) - pair.truth).mean())
        if off > MOST_DIFFERENCE:
            raise LakeError(
                f"the truth of {pair.pair_id} is not the picture that its world.json describes (they differ "
                f"by {off:.1f} of 255); ingest the folder's list again, or write new portraits"
            )
    rendered = exact_truth(Identities(sources), Identities(targets), Attributes(attributes), size)
    return replace(rendered, truth_NHWC=truth, target_NHWC=np.stack([pair.target for pair in pairs]))
