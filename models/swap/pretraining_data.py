"""Pictures of the procedural world for pretraining a base: exact swaps, rendered once and kept.

A *scene* is a set of attributes. Its condition image is made from person A in the scene; its targets are two
other people and A in the very same scene, rendered: the exact swaps. The identity is the embedding of another
photo of the target's person, in other attributes. So the only way to know the face is the embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.faces.condition import PIXEL_CONDITION, ConditionRecipe
from models.faces.frame import FaceFrame, face_frame, frame_condition
from models.identity.arcface_alignment import arcface_points_from_68
from models.identity.world_embedder import world_chip
from models.swap.codec import LatentCodec
from models.swap.config import FrozenConfig, SwapModelConfig
from models.swap.data import Choices, TrainingBatch
from models.swap.detected_frames import DetectedFrames
from models.worlds import WORLD_VERSION, Attributes, Identities, render, sample_attributes, sample_identities

CHUNK = 500
RENDER_SIZE = 64  # scenes are rendered at this side and averaged down to the model's
DETECTION_SIZE = 256  # detectors see photographs of this side


class Embedder(Protocol):
    """Face embedder: aligned chips (N, 64, 64, 3) uint8 RGB to (N, D) float32."""

    def embed_chips(self, chips_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return one embedding per chip."""
        ...


class WorldConfig(FrozenConfig):
    """How much of the world is rendered."""

    seed: int = Field(default=0, ge=0, description="Decides people, photos and scenes; others share no one.")
    people: int = Field(default=6000, ge=3, description="Identities.")
    photos: int = Field(default=3, ge=1, description="Embedded photos of each.")
    scenes: int = Field(default=30_000, ge=1, description="Scenes, each with three targets.")
    photo_size: int = Field(default=128, ge=64, description="Side of the photos that are embedded.")
    condition: ConditionRecipe = Field(default=PIXEL_CONDITION, description="The condition image.")
    crops: tuple[str, ...] = Field(
        default=("face",), description="Camera crops of photos and scenes; at 32 px a face fills the frame."
    )
    detected: bool = Field(
        default=False,
        description="Condition images by the points and masks of detectors, errors and all, where these "
        "find a face, and not by exact ones.",
    )


@dataclass(frozen=True)
class WorldScenes:
    """What is rendered: uint8 pictures of scenes, and face chips of other photos of everyone in them.

    `targets_NHWC` are exact swaps into the scenes `scene_N`, of people `person_N`; `conditions_SHWC` one per
    scene; `scene_person_S` is the person the condition was made from; `chips_PKHW3` K photos of each
    person. `attributes_S` is each scene's row of attributes, to render it again with anyone else.
    """

    targets_NHWC: NDArray[np.uint8]
    person_N: NDArray[np.int64]
    scene_N: NDArray[np.int64]
    conditions_SHWC: NDArray[np.uint8]
    scene_person_S: NDArray[np.int64]
    chips_PKHW3: NDArray[np.uint8]
    attributes_S: NDArray[np.float32]


@dataclass(frozen=True)
class WorldPool(WorldScenes):
    """Scenes, and `embeddings_PKD` of the chips: identities to train on."""

    embeddings_PKD: NDArray[np.float32]


def build_pool(
    config: SwapModelConfig,
    world: WorldConfig,
    embedder: Embedder,
    cache_dir: Path,
    log: Callable[[str], None] = print,
    *,
    workers: int = 1,
    detectors: DetectedFrames | None = None,
) -> WorldPool:
    """Return the rendered scenes with the embeddings of everyone's photos."""
    scenes = build_scenes(config, world, cache_dir, log, workers=workers, detectors=detectors)
    people, photos = scenes.chips_PKHW3.shape[:2]
    embeddings = embedder.embed_chips(scenes.chips_PKHW3.reshape(-1, *scenes.chips_PKHW3.shape[2:]))
    log(f"embedded {people * photos} photos")
    return WorldPool(**vars(scenes), embeddings_PKD=embeddings.reshape(people, photos, -1))


def joined(pools: Sequence[WorldPool]) -> WorldPool:
    """Return one pool of the people and scenes of all; nobody is in two of them."""
    first = np.cumsum([0, *(len(pool.chips_PKHW3) for pool in pools)])
    scene = np.cumsum([0, *(len(pool.conditions_SHWC) for pool in pools)])

    def all_of(name: str, offsets: NDArray[np.int64] | None = None) -> NDArray:
        parts = [getattr(pool, name) for pool in pools]
        if offsets is not None:
            parts = [part + offset for part, offset in zip(parts, offsets, strict=False)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return WorldPool(
        targets_NHWC=all_of("targets_NHWC"),
        person_N=all_of("person_N", first),
        scene_N=all_of("scene_N", scene),
        conditions_SHWC=all_of("conditions_SHWC"),
        scene_person_S=all_of("scene_person_S", first),
        chips_PKHW3=all_of("chips_PKHW3"),
        attributes_S=all_of("attributes_S"),
        embeddings_PKD=all_of("embeddings_PKD"),
    )


def build_scenes(
    config: SwapModelConfig,
    world: WorldConfig,
    cache_dir: Path,
    log: Callable[[str], None] = print,
    *,
    workers: int = 1,
    detectors: DetectedFrames | None = None,
) -> WorldScenes:
    """Render the scenes, or load them from `cache_dir` if the very same ones were rendered before.

    `workers` threads render; they decide nothing but time. `detectors` annotate scenes of a world that is to
    be `detected`.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    # pools of exact points keep the name that they had before there were others
    told = world.model_dump(exclude=None if world.detected else {"detected"})
    text = json.dumps([told, config.image_size, WORLD_VERSION])
    path = cache_dir / f"world_{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    if path.exists():
        log(f"world pool loaded from {path}")
        with np.load(path) as arrays:
            return WorldScenes(**dict(arrays.items()))
    people = world_people(world)
    chips = _photo_chips(people, world, log, workers)
    scenes = _render_scenes(people, config, world, chips, log, workers, detectors)
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **vars(scenes))
    unfinished.replace(path)
    return scenes


def world_people(world: WorldConfig) -> Identities:
    """Return everyone in the pool, in the order of its person numbers."""
    return sample_identities(_seed(world, 1), world.people)


def render_scene(people: Identities, attributes: Attributes, size: int) -> NDArray[np.uint8]:
    """Return photos at the model's size, (N, size, size, 3), rendered as the pool's targets are."""
    return np.stack([frame.image for frame in _frames(people, attributes, size, workers=1)])


def _seed(world: WorldConfig, purpose: int) -> int:
    return int(np.random.SeedSequence([world.seed, purpose]).generate_state(1)[0])


def _photo_chips(
    people: Identities, world: WorldConfig, log: Callable[[str], None], workers: int
) -> NDArray[np.uint8]:
    """Return (P, K, 64, 64, 3): face chips of K photos of each person, each with attributes of its own."""
    owner = np.repeat(np.arange(world.people), world.photos)
    attributes = sample_attributes(_seed(world, 2), len(owner), crops=world.crops)
    chips: list[NDArray[np.uint8]] = []
    for start in range(0, len(owner), CHUNK):
        part = np.arange(start, min(start + CHUNK, len(owner)))
        faces = render(
            people[owner[part]], attributes[part], world.photo_size, supersample=1, workers=workers
        )
        for photo, landmarks in zip(faces.images_NHWC, faces.landmarks_68_N682, strict=True):
            chips.append(world_chip(photo, arcface_points_from_68(landmarks)))
        log(f"rendered {part[-1] + 1} of {len(owner)} photos")
    return np.stack(chips).reshape(world.people, world.photos, *chips[0].shape)


def _render_scenes(
    people: Identities,
    config: SwapModelConfig,
    world: WorldConfig,
    chips_PKHW3: NDArray[np.uint8],
    log: Callable[[str], None],
    workers: int,
    detectors: DetectedFrames | None,
) -> WorldScenes:
    if world.detected and detectors is None:
        raise ValueError("scenes of a world that is to be detected need detectors")
    rng = np.random.default_rng(_seed(world, 3))
    attributes = sample_attributes(_seed(world, 4), world.scenes, crops=world.crops)
    # Three different people per scene; the first is the one the condition is made from.
    person_S3 = np.stack([rng.choice(world.people, 3, replace=False) for _ in range(world.scenes)])
    size = config.image_size
    targets = np.empty((world.scenes, 3, size, size, 3), np.uint8)
    conditions = np.empty((world.scenes, size, size, 3), np.uint8)
    for start in range(0, world.scenes, CHUNK):
        part = np.arange(start, min(start + CHUNK, world.scenes))
        for place in range(3):
            frames = _frames(people[person_S3[part, place]], attributes[part], size, workers)
            targets[part, place] = np.stack([frame.image for frame in frames])
            if place == 0:
                if world.detected and detectors is not None:
                    photos = render(
                        people[person_S3[part, 0]], attributes[part], DETECTION_SIZE, workers=workers
                    ).images_NHWC
                    found = detectors.annotate(photos)
                    log(f"a face was found on {sum(f is not None for f in found)} of {len(part)} scenes")
                    frames = [own or exact for own, exact in zip(found, frames, strict=True)]
                conditions[part] = np.stack([frame_condition(frame, world.condition) for frame in frames])
        log(f"rendered {part[-1] + 1} of {world.scenes} scenes")
    return WorldScenes(
        targets_NHWC=targets.reshape(-1, size, size, 3),
        person_N=person_S3.reshape(-1).astype(np.int64),
        scene_N=np.repeat(np.arange(world.scenes), 3).astype(np.int64),
        conditions_SHWC=conditions,
        scene_person_S=person_S3[:, 0].astype(np.int64),
        chips_PKHW3=chips_PKHW3,
        attributes_S=attributes.values,
    )


def _frames(people: Identities, attributes: Attributes, size: int, workers: int) -> list[FaceFrame]:
    """Return rendered photos with exact masks and points, at the model's size."""
    faces = render(people, attributes, size=RENDER_SIZE, supersample=2, workers=workers)
    visible = np.ones((RENDER_SIZE, RENDER_SIZE), bool)
    parts = zip(faces.images_NHWC, faces.parsing_NHW, faces.landmarks_68_N682, faces.iris_N102, strict=True)
    return [face_frame(image, parsing, visible, points, iris, size) for image, parsing, points, iris in parts]


class WorldData:
    """Training batches from a pool: exact swaps as targets, another photo's embedding as identity."""

    def __init__(self, pool: WorldPool, codec: LatentCodec) -> None:
        self._pool, self._codec = pool, codec

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (target, photo): the photo of the target's person that its embedding is of."""
        rows = rng.integers(len(self._pool.targets_NHWC), size=batch_size)
        photos = rng.integers(self._pool.embeddings_PKD.shape[1], size=batch_size)
        return np.stack([rows, photos], axis=1)

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """Return targets, their scenes' conditions, and the photos' embeddings."""
        pool = self._pool
        rows, photos = choices_BK.T
        return TrainingBatch(
            self._codec.encode(pool.targets_NHWC[rows]),
            self._codec.encode(pool.conditions_SHWC[pool.scene_N[rows]]),
            torch.from_numpy(pool.embeddings_PKD[pool.person_N[rows], photos]),
        )


class MixedData:
    """Batches of two kinds of scenes: a share of the rows comes from the second."""

    def __init__(self, first: WorldData, second: WorldData, share: float) -> None:
        self._kinds, self._share = (first, second), share

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (kind, target, photo)."""
        kind = (rng.random(batch_size) < self._share).astype(np.int64)
        drawn = np.stack([data.draw(rng, batch_size) for data in self._kinds])
        return np.column_stack([kind, drawn[kind, np.arange(batch_size)]])

    def read(self, choices_BK: Choices) -> TrainingBatch:
        """Return the drawn rows of both kinds, in order."""
        kind = choices_BK[:, 0]
        places = [np.flatnonzero(kind == number) for number in range(len(self._kinds))]
        parts = [
            data.read(choices_BK[rows, 1:])
            for data, rows in zip(self._kinds, places, strict=True)
            if len(rows)
        ]
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return TrainingBatch(
            torch.cat([part.target_latents_BLC for part in parts])[back],
            torch.cat([part.condition_latents_BLC for part in parts])[back],
            torch.cat([part.identity_BD for part in parts])[back],
        )
