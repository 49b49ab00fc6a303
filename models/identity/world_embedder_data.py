"""Chips of rendered people for training the world's embedder: rendered once and kept.

Every photograph has attributes of its own. Its five points are moved a little, as a detector would, and some
photographs are made coarse first: the embedder also judges faces in pictures of 32 pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.identity.arcface_alignment import arcface_points_from_68
from models.identity.world_embedder import world_chip
from models.worlds import WORLD_VERSION, render, sample_attributes, sample_identities
from models.worlds.sampling import CROPS, OCCLUDED_SHARE

CHUNK = 500
COARSEST = 0.25
"""The least share of its side that a photograph made coarse keeps."""
SHAKE_SCALE, SHAKE_TURN, SHAKE_SHIFT = 0.06, 0.05, 0.06
"""Standard deviations by which five points are scaled, turned (radians) and moved (of the eyes' distance)."""


class ChipPoolConfig(BaseModel):
    """How many people are rendered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="Decides people and photographs; others share nobody.")
    people: int = Field(default=6000, ge=2, description="Identities.")
    photos: int = Field(default=4, ge=2, description="Photographs of each.")
    photo_size: int = Field(default=128, ge=64, description="Side at which photographs are rendered, px.")
    crops: tuple[str, ...] = Field(default=CROPS, description="Camera crops of the photographs.")
    occluded: float = Field(
        default=OCCLUDED_SHARE, ge=0, le=1, description="Photographs with something before the face."
    )
    coarse_share: float = Field(default=0.4, ge=0, le=1, description="Photographs that lose resolution.")
    shake: float = Field(
        default=1.0, ge=0, description="Times the usual errors of the five points; training is generous."
    )


@dataclass(frozen=True)
class ChipPool:
    """`chips_PKHW3` uint8, K photographs of each of P people; `identities_PI` their parameters in [-1, 1]."""

    chips_PKHW3: NDArray[np.uint8]
    identities_PI: NDArray[np.float32]

    @property
    def photos(self) -> int:
        """Photographs of each person."""
        return self.chips_PKHW3.shape[1]


def build_chips(
    config: ChipPoolConfig, cache_dir: Path, log: Callable[[str], None] = print, *, workers: int = 1
) -> ChipPool:
    """Render the pool, or load it from `cache_dir` if the very same one was rendered before."""
    text = json.dumps([config.model_dump(), WORLD_VERSION])
    path = cache_dir / f"chips_{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    if path.exists():
        log(f"chips loaded from {path}")
        with np.load(path) as arrays:
            return ChipPool(**dict(arrays.items()))
    people = sample_identities(_seed(config, 1), config.people)
    owner = np.repeat(np.arange(config.people), config.photos)
    attributes = sample_attributes(_seed(config, 2), len(owner), crops=config.crops, occluded=config.occluded)
    rng = np.random.default_rng(_seed(config, 3))
    chips = []
    for start in range(0, len(owner), CHUNK):
        part = np.arange(start, min(start + CHUNK, len(owner)))
        faces = render(
            people[owner[part]], attributes[part], config.photo_size, supersample=1, workers=workers
        )
        for photo, landmarks in zip(faces.images_NHWC, faces.landmarks_68_N682, strict=True):
            chips.append(_chip(photo, landmarks, config, rng))
        log(f"rendered {part[-1] + 1} of {len(owner)} photographs")
    pool = ChipPool(
        np.stack(chips).reshape(config.people, config.photos, *chips[0].shape), people.values.copy()
    )
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **vars(pool))
    unfinished.replace(path)
    return pool


def _seed(config: ChipPoolConfig, purpose: int) -> int:
    # 7: a stream of its own beside that of the base's pictures, which counts from the same seeds
    return int(np.random.SeedSequence([config.seed, 7, purpose]).generate_state(1)[0])


def _chip(
    photo: NDArray[np.uint8],
    landmarks_68: NDArray[np.float32],
    config: ChipPoolConfig,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    points = arcface_points_from_68(landmarks_68)
    coarse, share = rng.random() < config.coarse_share, rng.uniform(COARSEST, 1.0)
    scale, turn = 1 + config.shake * SHAKE_SCALE * rng.standard_normal(), SHAKE_TURN * rng.standard_normal()
    turn, shift = config.shake * turn, config.shake * SHAKE_SHIFT * rng.standard_normal(2)
    if coarse:
        full, side = len(photo), round(len(photo) * share)
        photo = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
        points = points * np.float32(side / full)
    centre = points.mean(axis=0)
    eyes = float(np.linalg.norm(points[1] - points[0]))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    moved = (points - centre) @ turned.T + centre + shift * eyes
    return world_chip(photo, moved.astype(np.float32))
