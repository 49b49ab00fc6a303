"""Rendered faces for training the denoiser: pictures with their points and identities.

The pictures are those of the tiny swap model (`models.swap.pretraining_data`): people rendered into scenes,
and other photographs of everyone. Its pool keeps no points; they are computed from its parameters, exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.diffface.training_data import DenoiserBatch, IdentitySource, read_images, read_rows
from models.identity.arcface_alignment import arcface_points_from_68
from models.identity.world_embedder import world_chip
from models.swap import config as swap_config
from models.swap.data import Choices
from models.swap.pretraining_data import Embedder, WorldConfig, WorldScenes, build_scenes, world_people
from models.worlds import WORLD_VERSION, Attributes, render

POINTS_SIZE = 8
"""Side of the pictures that are rendered for the sake of their points, which only scale with it."""
CHUNK = 1000


@dataclass(frozen=True)
class WorldFaces:
    """Rendered faces.

    `images_NHW3` uint8; `points_N52` their five points, px; `person_N` whose face; `photo_identity_PKD`
    embeddings of K other photographs of each of P people; `image_identity_ND` of the pictures themselves,
    where they were asked for. `attributes_NK` say how each was photographed, to render it again with anyone.
    """

    images_NHW3: NDArray[np.uint8]
    points_N52: NDArray[np.float32]
    person_N: NDArray[np.int64]
    photo_identity_PKD: NDArray[np.float32]
    attributes_NK: NDArray[np.float32]
    image_identity_ND: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.images_NHW3)


def load_world_faces(
    world: WorldConfig,
    embedder: Embedder,
    cache_dir: Path,
    identity_source: IdentitySource,
    log: Callable[[str], None] = print,
    *,
    embedder_digest: str,
    workers: int = 1,
) -> WorldFaces:
    """Render the pool, or load it from `cache_dir` if the very same one was rendered there before.

    Args:
        world: what is rendered.
        embedder: gives the identities.
        cache_dir: folder of pools; one of the tiny swap model's training will do.
        identity_source: "image" embeds the pictures themselves too.
        log: told what is going on.
        embedder_digest: of the embedder's weights; keeps what was embedded by others apart.
        workers: threads that render.
    """
    scenes = build_scenes(swap_config.tiny(), world, cache_dir, log, workers=workers)
    text = json.dumps([world.model_dump(), WORLD_VERSION, embedder_digest, identity_source])
    path = cache_dir / f"faces_{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        made = _points_and_identities(scenes, world, embedder, identity_source, log, workers)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, allow_pickle=False, **made)
        unfinished.replace(path)
    with np.load(path) as arrays:
        log(f"points and identities loaded from {path}")
        return WorldFaces(
            images_NHW3=scenes.targets_NHWC,
            person_N=scenes.person_N,
            attributes_NK=scenes.attributes_S[scenes.scene_N],
            **dict(arrays.items()),
        )


def _points_and_identities(
    scenes: WorldScenes,
    world: WorldConfig,
    embedder: Embedder,
    identity_source: IdentitySource,
    log: Callable[[str], None],
    workers: int,
) -> dict[str, NDArray[np.float32]]:
    """What a pool does not hold, by the names of `WorldFaces`."""
    points = world_points(scenes, world, workers=workers)
    log(f"points of {len(points)} pictures")
    chips_PKHW3 = scenes.chips_PKHW3
    people, photos = chips_PKHW3.shape[:2]
    embedded = embedder.embed_chips(chips_PKHW3.reshape(-1, *chips_PKHW3.shape[2:]))
    log(f"embedded {people * photos} photographs")
    made = {"points_N52": points, "photo_identity_PKD": embedded.reshape(people, photos, -1)}
    if identity_source == "image":
        made["image_identity_ND"] = embed_pictures(scenes.targets_NHWC, points, embedder)
        log(f"embedded {len(points)} pictures")
    return made


def world_points(scenes: WorldScenes, world: WorldConfig, *, workers: int = 1) -> NDArray[np.float32]:
    """Return the five points of every picture of a pool, (N, 5, 2) px of the picture."""
    people, side = world_people(world), scenes.targets_NHWC.shape[1]
    points = np.empty((len(scenes.person_N), 5, 2), np.float32)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        faces = render(
            people[scenes.person_N[part]],
            Attributes(scenes.attributes_S[scenes.scene_N[part]]),
            POINTS_SIZE,
            supersample=1,
            workers=workers,
        )
        scaled = faces.landmarks_68_N682 * np.float32(side / POINTS_SIZE)
        points[part] = [arcface_points_from_68(landmarks) for landmarks in scaled]
    return points


def embed_pictures(
    images_NHW3: NDArray[np.uint8], points_N52: NDArray[np.float32], embedder: Embedder
) -> NDArray[np.float32]:
    """Embed the faces of pictures, (N, D), a thousand chips at a time."""
    rows = []
    for start in range(0, len(images_NHW3), CHUNK):
        part = slice(start, start + CHUNK)
        pairs = zip(images_NHW3[part], points_N52[part], strict=True)
        rows.append(embedder.embed_chips(np.stack([world_chip(*pair) for pair in pairs])))
    return np.concatenate(rows)


class WorldFaceData:
    """Batches of rendered faces; with another photograph's identity, or the picture's own.

    Raises:
        ValueError: the pictures' own identities are asked for and were not embedded.
    """

    def __init__(self, faces: WorldFaces, identity_source: IdentitySource) -> None:
        if identity_source == "image" and faces.image_identity_ND is None:
            raise ValueError("identity_source 'image' needs faces loaded with the identities of the pictures")
        self._faces, self._source = faces, identity_source

    def draw(self, rng: np.random.Generator, batch_size: int) -> Choices:
        """Return (picture, photograph of its person); the photograph counts for another photo's identity."""
        pictures = rng.integers(len(self._faces), size=batch_size)
        photos = rng.integers(self._faces.photo_identity_PKD.shape[1], size=batch_size)
        return np.stack([pictures, photos], axis=1)

    def read(self, choices_BK: Choices) -> DenoiserBatch:
        """Return the pictures with their points, and the identities."""
        faces = self._faces
        pictures, photos = choices_BK.T
        if self._source == "image" and faces.image_identity_ND is not None:
            identity = read_rows(faces.image_identity_ND, pictures)
        else:
            people = faces.person_N[pictures]
            identity = read_rows(
                faces.photo_identity_PKD.reshape(-1, faces.photo_identity_PKD.shape[-1]),
                people * faces.photo_identity_PKD.shape[1] + photos,
            )
        return DenoiserBatch(
            read_images(faces.images_NHW3, pictures), identity, read_rows(faces.points_N52, pictures)
        )
