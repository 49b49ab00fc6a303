"""Rendered faces with their exact classes, eyes and gaze, for training the world's parser and gaze network.

Every face is drawn twice, at 32 and at 64 px, with equally many samples. Where somebody looks is the
direction of the eyeball under the iris the world draws: an eyeball of a fixed share of the eye's width,
turned with the head. The world itself has no eyeball; that share is this module's assumption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.faces.constants import LEFT_BROW, LEFT_EYE, RIGHT_BROW, RIGHT_EYE
from models.swap.config import FrozenConfig
from models.worlds import WORLD_VERSION, Attributes, Identities, render, sample_attributes, sample_identities

SIZES = (32, 64)
"""Sides at which each face is rendered, px."""
SAMPLES = 128
"""Samples of a row of each picture, whatever its size."""
EYE_POINTS = 11
"""Per eye: six of the lids (iBUG order), then centre, right, top, left and bottom of the iris."""
EYEBALL_RADIUS = 0.8
"""Of the eyeball, over half the eye's width: 12 mm under a lid opening of 30 mm."""
IRIS_ACROSS, IRIS_UP = 0.40, 0.30
"""How far the world moves an iris: shares of the eye's half width and half height, at full gaze."""
CHUNK = 250

_LEFT_AND_RIGHT = ((RIGHT_BROW, LEFT_BROW), (RIGHT_EYE, LEFT_EYE), (7, 8))
"""Classes that a mirror swaps: brows, eyes, ears."""


class ExpertPoolConfig(FrozenConfig):
    """How many faces are rendered."""

    seed: int = Field(default=0, ge=0, description="Decides people and pictures; others share nobody.")
    faces: int = Field(default=2400, ge=2, description="Faces, each of a person of its own.")


@dataclass(frozen=True)
class ExpertPool:
    """N faces: uint8 pictures and classes at both sizes, points and gaze.

    `eyes_N2K2` are the points of the subject's right eye, then the left one, in shares of the picture's side;
    `landmarks_N682` all 68 likewise; `gaze_N2` pitch (up) and yaw (to the right of the picture), radians.
    """

    images_32_NHW3: NDArray[np.uint8]
    images_64_NHW3: NDArray[np.uint8]
    parsing_32_NHW: NDArray[np.uint8]
    parsing_64_NHW: NDArray[np.uint8]
    landmarks_N682: NDArray[np.float32]
    eyes_N2K2: NDArray[np.float32]
    gaze_N2: NDArray[np.float32]

    def images(self, size: int) -> NDArray[np.uint8]:
        """The pictures of one of `SIZES`."""
        return {32: self.images_32_NHW3, 64: self.images_64_NHW3}[size]

    def parsing(self, size: int) -> NDArray[np.uint8]:
        """Their classes."""
        return {32: self.parsing_32_NHW, 64: self.parsing_64_NHW}[size]

    def __len__(self) -> int:
        return len(self.gaze_N2)


def build_expert_pool(
    config: ExpertPoolConfig, cache_dir: Path, log: Callable[[str], None] = print
) -> ExpertPool:
    """Render the faces, or load them from `cache_dir` if the very same ones were rendered before."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps([config.model_dump(), WORLD_VERSION, SIZES, SAMPLES])
    path = cache_dir / f"experts_{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    if path.exists():
        log(f"faces loaded from {path}")
        with np.load(path) as arrays:
            return ExpertPool(**dict(arrays.items()))
    people = sample_identities(_seed(config, 1), config.faces)
    attributes = sample_attributes(_seed(config, 2), config.faces, crops=("face",))
    parts: dict[str, list[NDArray]] = {}

    def keep(name: str, values: NDArray) -> None:
        parts.setdefault(name, []).append(values)

    for start in range(0, config.faces, CHUNK):
        part = np.arange(start, min(start + CHUNK, config.faces))
        for size in SIZES:
            faces = render(people[part], attributes[part], size, supersample=SAMPLES // size, workers=1)
            keep(f"images_{size}_NHW3", faces.images_NHWC)
            keep(f"parsing_{size}_NHW", faces.parsing_NHW)
            if size == SIZES[-1]:  # points only scale with the size
                side = np.float32(size)
                keep("landmarks_N682", faces.landmarks_68_N682 / side)
                keep("eyes_N2K2", eye_points(faces.landmarks_68_N682, faces.iris_N102) / side)
        log(f"rendered {part[-1] + 1} of {config.faces} faces")
    pool = ExpertPool(
        **{name: np.concatenate(values) for name, values in parts.items()},
        gaze_N2=gaze_angles(people, attributes),
    )
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **vars(pool))
    unfinished.replace(path)
    return pool


def _seed(config: ExpertPoolConfig, purpose: int) -> int:
    # 11: a stream of its own beside those of the embedder's and the base's pictures
    return int(np.random.SeedSequence([config.seed, 11, purpose]).generate_state(1)[0])


def eye_points(landmarks_N682: NDArray[np.floating], iris_N102: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points of the subject's right eye and left eye, (N, 2, 11, 2), in the unit they are given in.

    Args:
        landmarks_N682: iBUG order.
        iris_N102: centre, right, top, left, bottom of the subject's right iris, then of the left one.
    """
    lids = np.stack([landmarks_N682[:, 36:42], landmarks_N682[:, 42:48]], axis=1)
    irises = iris_N102.reshape(len(iris_N102), 2, 5, 2)
    return np.concatenate([lids, irises], axis=2).astype(np.float32)


def gaze_angles(identities: Identities, attributes: Attributes) -> NDArray[np.float32]:
    """Where each person looks, seen from the camera: (N, 2) pitch (up) and yaw (to the picture's right).

    Radians. Both eyes of the world look the same way.

    Raises:
        ValueError: tables of different length.
    """
    if len(identities) != len(attributes):
        raise ValueError(f"{len(identities)} identities do not match {len(attributes)} attributes")
    person, photo = identities.records(), attributes.records()
    radius = EYEBALL_RADIUS * person["eye_width"]
    # as models.worlds.geometry.shape_face closes and moves an eye
    height = person["eye_height"] * (1 - 0.85 * photo["blink"]) * (1 - 0.12 * np.maximum(photo["smile"], 0))
    right = IRIS_ACROSS * person["eye_width"] * photo["gaze_x"] / radius
    up = IRIS_UP * height * photo["gaze_y"] / radius
    forward = np.sqrt(1 - right**2 - up**2)
    yaw, pitch, roll = (photo[name].astype(np.float64) for name in ("yaw", "pitch", "roll"))
    # the head turns by yaw, then nods by pitch, then tilts by roll
    x = np.cos(yaw) * right + np.sin(yaw) * forward
    z = np.cos(yaw) * forward - np.sin(yaw) * right
    y, z = np.cos(pitch) * up - np.sin(pitch) * z, np.sin(pitch) * up + np.cos(pitch) * z
    x, y = np.cos(roll) * x - np.sin(roll) * y, np.sin(roll) * x + np.cos(roll) * y
    return np.stack([np.arcsin(np.clip(y, -1, 1)), np.arctan2(x, z)], axis=1).astype(np.float32)


def mirrored_classes(parsing_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Classes of mirrored pictures: flipped, and the subject's left and right exchanged."""
    table = np.arange(256, dtype=np.uint8)
    for right, left in _LEFT_AND_RIGHT:
        table[right], table[left] = left, right
    return table[parsing_NHW[:, :, ::-1]]
