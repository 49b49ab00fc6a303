"""The exact answer to a set of swaps: the rendered truth, its regions, and the faces it is told apart from.

Needs the parameters of the world (`models.worlds`) behind the photographs; pictures whose parameters nobody
knows have no exact truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.worlds.benchmark import BENCHMARK_SEED, CANDIDATES, BenchmarkPairs, candidate_identities
from models.worlds.paint import (
    GLASSES,
    LEFT_BROW,
    LEFT_EAR,
    LEFT_EYE,
    LOWER_LIP,
    MOUTH,
    NOSE,
    RIGHT_BROW,
    RIGHT_EAR,
    RIGHT_EYE,
    SKIN,
    UPPER_LIP,
)
from models.worlds.parameters import Attributes, Identities
from models.worlds.world import RenderedFaces, render

FACE_CLASSES: Final = (
    SKIN, RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE, GLASSES, LEFT_EAR, RIGHT_EAR, NOSE, MOUTH, UPPER_LIP,
    LOWER_LIP,
)  # fmt: skip
"""Classes of the parsing that a swap may change; hair, neck, clothes and background are none of them."""

REGION_SIZE: Final = 128
"""Regions are drawn at least this large, px, so that a thin frame of glasses has a share even at 32 px."""

RETRIEVAL_SIZE: Final = 64
"""Render retrieval compares pictures at most this large, px: enough to tell 20 people apart."""

SMALLEST_SIZE: Final = 16

_MAKE_UP_STEP: Final = 4
"""Levels of 255 by which make-up must change a pixel to be part of its region."""

_FRAME_STEP: Final = 16
"""Levels of 255 by which a pixel must differ between black and white glasses to be part of the frame."""

_BATCH: Final = 32

Pictures = NDArray[np.uint8]
Weights = NDArray[np.uint8]


@dataclass(frozen=True)
class ExactTruth:
    """What N swaps are measured against, all pictures uint8 RGB of one size.

    Regions are weights, uint8 (N, size, size): 255 where a pixel lies wholly inside, 0 outside. A row whose
    photograph shows no such thing (no glasses, no make-up, lips covered) is all 0.

    Attributes:
        truth_NHWC: the source person with the target photograph's attributes.
        target_NHWC: the target photograph itself.
        face_NHW: the face in the truth or in the target: where a swap may change anything.
        lips_NHW: both lips of the truth.
        eye_shadow_NHW: where the truth wears eye shadow.
        blush_NHW: where the truth wears blusher.
        glasses_NHW: frame of the truth's glasses.
        eyes_NHW: the open eyes of the truth, through glasses too.
        landmarks_68_N682: the truth's landmarks, pixels, iBUG order.
        candidates_NKHWC: K people with the target's attributes; 0 is the truth, 1 the target.
        retrieval_weights_NHW: `face_NHW` at the candidates' size.
    """

    truth_NHWC: Pictures
    target_NHWC: Pictures
    face_NHW: Weights
    lips_NHW: Weights
    eye_shadow_NHW: Weights
    blush_NHW: Weights
    glasses_NHW: Weights
    eyes_NHW: Weights
    landmarks_68_N682: NDArray[np.float32]
    candidates_NKHWC: Pictures
    retrieval_weights_NHW: Weights

    def __len__(self) -> int:
        return len(self.truth_NHWC)

    @property
    def size(self) -> int:
        """Width and height of the pictures that are compared, pixels."""
        return self.truth_NHWC.shape[1]


def exact_truth(
    sources: Identities,
    targets: Identities,
    attributes: Attributes,
    size: int,
    candidates: int = CANDIDATES,
    seed: int = BENCHMARK_SEED + 1,
) -> ExactTruth:
    """Render the truth of N swaps and everything it is judged by.

    Args:
        sources: the people whose faces are swapped in, N rows.
        targets: the people in the target photographs, N rows.
        attributes: how the target photographs were taken, N rows.
        size: width and height of all compared pictures, pixels, at least 16.
        candidates: identities that render retrieval chooses among, source and target included.
        seed: seed of the other candidates.

    Raises:
        ValueError: tables of different length, a pair of one person, or a size below 16.
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"exact metrics need pictures of at least {SMALLEST_SIZE} px, not {size}")
    chosen = candidate_identities(sources, targets, candidates, seed)
    if len(attributes) != len(sources):
        raise ValueError(f"{len(attributes)} attributes do not match {len(sources)} sources: give one each")
    truth = render(sources, attributes, size)
    small = min(size, RETRIEVAL_SIZE)
    rivals = np.empty((len(sources), candidates, small, small, 3), np.uint8)
    for choice in range(candidates):
        rivals[:, choice] = render(Identities(chosen[:, choice]), attributes, small).images_NHWC
    face, regions = _regions(sources, targets, attributes, size)
    return ExactTruth(
        truth_NHWC=truth.images_NHWC,
        target_NHWC=render(targets, attributes, size).images_NHWC,
        face_NHW=_weights(face, size),
        lips_NHW=_weights(regions["lips"], size),
        eye_shadow_NHW=_weights(regions["eye_shadow"], size),
        blush_NHW=_weights(regions["blush"], size),
        glasses_NHW=_weights(regions["glasses"], size),
        eyes_NHW=_weights(regions["eyes"], size),
        landmarks_68_N682=truth.landmarks_68_N682,
        candidates_NKHWC=rivals,
        retrieval_weights_NHW=_weights(face, small),
    )


def benchmark_truth(pairs: BenchmarkPairs, size: int) -> ExactTruth:
    """The exact truth of benchmark pairs, with the benchmark's own candidates."""
    return exact_truth(pairs.sources, pairs.targets, pairs.target_attributes, size, seed=pairs.candidate_seed)


def _regions(
    sources: Identities, targets: Identities, attributes: Attributes, size: int
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.bool_]]]:
    """The face of truth and target together, and the truth's regions, bool (N, S, S)."""
    fine = size * -(-REGION_SIZE // size)
    face, found = [], {name: [] for name in ("lips", "eyes", "glasses", "eye_shadow", "blush")}
    for first in range(0, len(sources), _BATCH):
        rows = slice(first, first + _BATCH)
        worn = attributes[rows]
        truth = render(sources[rows], worn, fine, supersample=1)
        target = render(targets[rows], worn, fine, supersample=1)
        parsing = truth.parsing_NHW
        face.append(np.isin(parsing, FACE_CLASSES) | np.isin(target.parsing_NHW, FACE_CLASSES))
        found["lips"].append(np.isin(parsing, (UPPER_LIP, LOWER_LIP)))
        # Parsings call all that lies behind a lens glasses.
        bare = _changed(sources[rows], worn, truth, "glasses", glasses=0.0)
        found["eyes"].append(np.isin(bare.parsing_NHW, (RIGHT_EYE, LEFT_EYE)))
        black, white = (
            _changed(
                sources[rows], worn, truth, "glasses", glasses_red=tone, glasses_green=tone, glasses_blue=tone
            )
            for tone in (0.0, 1.0)
        )
        found["glasses"].append(_difference(black, white) >= _FRAME_STEP)
        for name in ("eye_shadow", "blush"):
            unpainted = _changed(sources[rows], worn, truth, name, **{name: 0.0})
            found[name].append(_difference(truth, unpainted) >= _MAKE_UP_STEP)
    return np.concatenate(face), {name: np.concatenate(parts) for name, parts in found.items()}


def _changed(
    people: Identities, worn: Attributes, faces: RenderedFaces, name: str, **change: float
) -> RenderedFaces:
    """The same photographs with other attributes on everybody who wears `name`; the rest stays as it is."""
    wearing = np.flatnonzero(worn.column(name) > 0)
    pictures, parsing = faces.images_NHWC.copy(), faces.parsing_NHW.copy()
    if len(wearing):
        other = render(people[wearing], worn[wearing].replace(**change), pictures.shape[1], supersample=1)
        pictures[wearing], parsing[wearing] = other.images_NHWC, other.parsing_NHW
    return replace(faces, images_NHWC=pictures, parsing_NHW=parsing)


def _difference(first: RenderedFaces, second: RenderedFaces) -> NDArray[np.int16]:
    """Largest difference of a pixel's three colours, levels of 255, (N, S, S)."""
    return np.abs(first.images_NHWC.astype(np.int16) - second.images_NHWC).max(axis=3)


def _weights(region_NSS: NDArray[np.bool_], size: int) -> Weights:
    """How much of each pixel of a smaller picture lies inside a region, 0 to 255."""
    shares = (
        cv2.resize(row.astype(np.uint8) * 255, (size, size), interpolation=cv2.INTER_AREA)
        for row in region_NSS
    )
    return np.stack(list(shares)) if len(region_NSS) else np.empty((0, size, size), np.uint8)
