"""Following faces from frame to frame by where they are and whom they look like.

Place alone exchanges two people who cross; likeness alone loses a face that is blurred for a moment. Both are
used: a face may be taken for somebody where it looks like them, anywhere in the picture, or in the place
where they were expected and looks nearly like them; of all such claims the best are granted first. Every face
of the picture is followed, not only the wanted ones, so that a bystander's claim protects the wanted person.

What is known of each person is a plain value, so that following can stop and go on in another process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.identity.embedding import SAME_PERSON_DISTANCE

NEARLY_DISTANCE = 0.7
"""Largest distance of embeddings at which a face in the expected place is taken for the same one."""

EXPECTED_OVERLAP = 0.3
"""Intersection over union with the expected box from which a face counts as being in its place."""

EXPECTED_FRAMES = 5
"""Frames after which nothing is expected of the place of a face that was not seen."""

OVERLAP_WEIGHT = 0.15
"""What full overlap counts against a distance of embeddings; little, so that likeness decides."""

REMEMBERED_FRAMES = 30
"""The reference is a mean over about so many frames."""

FORGOTTEN_FRAMES = 300
"""Frames after which somebody who is not wanted and is not seen is forgotten."""

Four = tuple[float, float, float, float]


class Track(BaseModel):
    """Somebody who is followed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0, description="Order of first appearance, in a frame from left to right.")
    box: Four = Field(description="Where the face was last, (x0, y0, x1, y1) pixels.")
    motion: Four = Field(default=(0.0, 0.0, 0.0, 0.0), description="Change of the box per frame, pixels.")
    reference: tuple[float, ...] = Field(description="Mean embedding of the frames in which it was sure.")
    sure: int = Field(default=1, ge=1, description="Frames in that mean.")
    last: int = Field(ge=0, description="Index of the last frame with this face.")


def follow(
    tracks: Sequence[Track],
    frame: int,
    boxes_N4: NDArray[np.floating],
    embeddings_ND: NDArray[np.floating],
    wanted: Collection[int] = (),
) -> tuple[tuple[Track, ...], list[int]]:
    """Who the faces of the next frame are.

    Args:
        tracks: those who are followed.
        frame: index of this frame, larger than of any before.
        boxes_N4: its faces, (x0, y0, x1, y1) pixels; none is fine.
        embeddings_ND: their embeddings, by the network of `SAME_PERSON_DISTANCE`.
        wanted: numbers of tracks that are never forgotten.

    Returns:
        The tracks after this frame, and the number of every face's track. Whoever is new gets a new number.

    Raises:
        ValueError: counts of boxes and embeddings differ.
    """
    if len(boxes_N4) != len(embeddings_ND):
        raise ValueError(f"{len(boxes_N4)} boxes need as many embeddings, got {len(embeddings_ND)}")
    claims = []
    for place, track in enumerate(tracks):
        expected = np.add(track.box, np.multiply(track.motion, frame - track.last))
        recent = frame - track.last <= EXPECTED_FRAMES
        for face, box_4 in enumerate(boxes_N4):
            distance = float(np.linalg.norm(embeddings_ND[face].astype(np.float64) - track.reference))
            overlap = _overlap(expected, box_4) if recent else 0.0
            limit = NEARLY_DISTANCE if overlap >= EXPECTED_OVERLAP else SAME_PERSON_DISTANCE
            if distance <= limit:
                claims.append((distance - OVERLAP_WEIGHT * overlap, place, face, distance))
    after, numbers = list(tracks), [-1] * len(boxes_N4)
    granted: set[int] = set()
    for _, place, face, distance in sorted(claims):
        if place not in granted and numbers[face] < 0:
            granted.add(place)
            numbers[face] = tracks[place].number
            after[place] = _seen(tracks[place], frame, boxes_N4[face], embeddings_ND[face], distance)
    following = max((track.number for track in tracks), default=-1) + 1
    for face, number in enumerate(numbers):
        if number < 0:
            numbers[face] = following
            after.append(
                Track(
                    number=following,
                    box=_four(boxes_N4[face]),
                    reference=tuple(map(float, embeddings_ND[face])),
                    last=frame,
                )
            )
            following += 1
    kept = [item for item in after if item.number in wanted or frame - item.last <= FORGOTTEN_FRAMES]
    return tuple(kept), numbers


def _seen(
    track: Track, frame: int, box_4: NDArray[np.floating], embedding_D: NDArray[np.floating], distance: float
) -> Track:
    moved = np.subtract(box_4, track.box) / (frame - track.last)
    changes: dict[str, object] = {
        "box": _four(box_4),
        "motion": _four((np.array(track.motion) + moved) / 2),
        "last": frame,
    }
    if distance <= SAME_PERSON_DISTANCE:
        share = 1 / min(track.sure + 1, REMEMBERED_FRAMES)
        mean = (1 - share) * np.array(track.reference) + share * embedding_D.astype(np.float64)
        changes |= {"reference": tuple(map(float, mean)), "sure": track.sure + 1}
    return track.model_copy(update=changes)


def _four(box_4: NDArray[np.floating]) -> Four:
    x0, y0, x1, y1 = map(float, box_4)
    return x0, y0, x1, y1


def _overlap(first_4: NDArray[np.floating], second_4: NDArray[np.floating]) -> float:
    """Intersection over union of two boxes."""
    common = np.prod(
        np.clip(np.minimum(first_4[2:], second_4[2:]) - np.maximum(first_4[:2], second_4[:2]), 0, None)
    )
    areas = np.prod(first_4[2:] - first_4[:2]) + np.prod(second_4[2:] - second_4[:2])
    return float(common / max(areas - common, 1e-9))
