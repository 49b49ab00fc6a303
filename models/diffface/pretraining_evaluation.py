"""What a denoiser of the procedural world knows of identity, on people that training never saw, and its gate.

Two things are measured: by how much the noise is told worse with another person's identity, and whether faces
drawn from nothing but noise and an identity are found to be of that person among twenty.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diffface.denoiser import Denoiser
from models.diffface.respacing import respaced
from models.diffface.schedule import NoiseSchedule, linear_schedule
from models.diffface.steps import ddpm_step, predict
from models.diffface.training_losses import pictures_to_signal
from models.diffface.world_faces import WorldFaces, embed_pictures
from models.swap.pretraining_data import Embedder

LEVELS = (300, 600, 900)
"""Steps of 1000 at which the noise is told."""
CANDIDATES = 20
SAMPLING_STEPS = "50"
BATCH = 50
SEED = 11
GATE_WRONG_OVER_RIGHT = 0.02
"""By which share the wrong identity is to cost more than the right one, at the middle level."""
GATE_RANK_1 = 0.15
"""Rank-1 of twenty that samples are to reach; chance is 0.05."""


class LevelLosses(TypedDict):
    """Mean squared errors of epsilon at one step, with the same noise."""

    right: float
    wrong: float
    wrong_over_right: float


class DenoiserReport(TypedDict):
    """Held-out figures."""

    pictures: int
    epsilon_loss: dict[str, LevelLosses]
    samples: int
    rank_1_of_20: float
    rank_1_of_20_of_photographs: float
    gate: dict[str, float]
    passed: bool


@torch.inference_mode()
def epsilon_losses(denoiser: Denoiser, faces: WorldFaces, count: int) -> dict[str, LevelLosses]:
    """Return the losses of `count` pictures at every level, with the right and a wrong identity."""
    rng = np.random.default_rng(SEED)
    rows = rng.permutation(len(faces))[:count]
    person = faces.person_N[rows]
    people = len(faces.photo_identity_PKD)
    other = (person + rng.integers(1, people, size=len(rows))) % people
    clean = pictures_to_signal(torch.from_numpy(faces.images_NHW3[rows]))
    identities = {
        "right": torch.from_numpy(faces.photo_identity_PKD[person, 0]),
        "wrong": torch.from_numpy(faces.photo_identity_PKD[other, 0]),
    }
    schedule = linear_schedule()
    report: dict[str, LevelLosses] = {}
    for level in LEVELS:
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED + level))
        noised = schedule.q_sample(clean, level, noise)
        losses = {
            name: _epsilon_loss(denoiser, noised, noise, level, identity, schedule)
            for name, identity in identities.items()
        }
        report[f"t={level}"] = {
            "right": round(losses["right"], 5),
            "wrong": round(losses["wrong"], 5),
            "wrong_over_right": round(losses["wrong"] / losses["right"] - 1, 4),
        }
    return report


def _epsilon_loss(
    denoiser: Denoiser,
    noised: Tensor,
    noise: Tensor,
    level: int,
    identity: Tensor,
    schedule: NoiseSchedule,
) -> float:
    errors = [
        (predict(denoiser, x, level, who, schedule).epsilon - epsilon).square().flatten(1).mean(dim=1)
        for x, epsilon, who in zip(
            noised.split(BATCH), noise.split(BATCH), identity.split(BATCH), strict=True
        )
    ]
    return float(torch.cat(errors).mean())


@torch.inference_mode()
def sample_faces(
    denoiser: Denoiser, identity_ND: Tensor, *, steps: str = SAMPLING_STEPS, seed: int = SEED
) -> NDArray[np.uint8]:
    """Draw a face of every identity from noise by DDPM, uint8 (N, S, S, 3); row i's noise is its own."""
    schedule = respaced(linear_schedule(), steps)
    side = denoiser.config.image_size
    pictures = []
    for start in range(0, len(identity_ND), BATCH):
        who = identity_ND[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(who))]

        def noise(own: list[torch.Generator] = generators) -> Tensor:
            return torch.stack([torch.randn(3, side, side, generator=generator) for generator in own])

        x = noise()
        for index in reversed(range(len(schedule))):
            x = ddpm_step(predict(denoiser, x, index, who, schedule), noise(), index)
        pictures.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(pictures).numpy()


def rank_1(
    images_NHW3: NDArray[np.uint8],
    points_N52: NDArray[np.float32],
    person_N: NDArray[np.int64],
    gallery_PD: NDArray[np.float32],
    embedder: Embedder,
) -> float:
    """Return how often a picture's own person is the nearest by cosine of twenty from the gallery."""
    rng = np.random.default_rng(SEED)
    found = embed_pictures(images_NHW3, points_N52, embedder)
    hits = []
    for embedding, person in zip(found, person_N, strict=True):
        strangers = rng.choice(np.delete(np.arange(len(gallery_PD)), person), CANDIDATES - 1, replace=False)
        cosines = gallery_PD[np.concatenate([[person], strangers])] @ embedding
        hits.append(bool(cosines.argmax() == 0))
    return float(np.mean(hits))


def evaluate_denoiser(
    denoiser: Denoiser, faces: WorldFaces, embedder: Embedder, *, pictures: int = 400, samples: int = 100
) -> DenoiserReport:
    """Return held-out figures and whether the gate is passed.

    A sampled face has no points of its own: it is embedded at the mean points of all pictures. What that
    costs is shown by real pictures, embedded there too (`rank_1_of_20_of_photographs`). The gallery is
    another photograph of everyone than the one that conditions.
    """
    losses = epsilon_losses(denoiser, faces, pictures)
    rng = np.random.default_rng(SEED)
    rows = rng.permutation(len(faces))[:samples]
    person = faces.person_N[rows]
    gallery = faces.photo_identity_PKD[:, 1]
    points = np.repeat(faces.points_N52.mean(axis=0, keepdims=True), len(rows), axis=0)
    drawn = sample_faces(denoiser, torch.from_numpy(faces.photo_identity_PKD[person, 0]))
    found = rank_1(drawn, points, person, gallery, embedder)
    middle = losses[f"t={LEVELS[1]}"]["wrong_over_right"]
    return {
        "pictures": pictures,
        "epsilon_loss": losses,
        "samples": len(rows),
        "rank_1_of_20": round(found, 3),
        "rank_1_of_20_of_photographs": round(
            rank_1(faces.images_NHW3[rows], points, person, gallery, embedder), 3
        ),
        "gate": {"wrong_over_right": GATE_WRONG_OVER_RIGHT, "rank_1_of_20": GATE_RANK_1},
        "passed": middle >= GATE_WRONG_OVER_RIGHT and found >= GATE_RANK_1,
    }
