"""How good a base is, on people and scenes it never saw: numbers against the world's exact swaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.swap.base import SwapBase
from models.swap.losses import flow_sample
from models.swap.pretraining_data import WorldConfig, WorldPool, render_scene, world_people
from models.swap.sampling import noise_rows
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.training_run import LOSSES_NAME
from models.worlds import Attributes

LOG_EVERY = 100
"""Steps between lines of the log."""
NOISE_LEVELS = (0.3, 0.6, 0.9)
CANDIDATES = 20
LOSS_ROWS = 600
ID_SCALES = (1.0, 2.0, 3.0, 4.0, 6.0)
GATE_RANK_1 = 0.7
"""Share of exact swaps that must be the nearest of 20 people, at the best identity guidance."""
GATE_WRONG_OVER_RIGHT = 0.10
"""By how much the wrong identity's loss must lie above the right one's at t = 0.6."""


class SwapNumbers(TypedDict):
    """Quality of swaps: PSNR in dB, retrieval and leak as shares of 1."""

    psnr: float
    rank_1_of_20: float
    leak: float


class BaseReport(TypedDict):
    """All held-out numbers of a base."""

    loss: dict[str, dict[str, float]]
    swaps: dict[str, SwapNumbers]


class Gate(TypedDict):
    """Whether anything may be trained on a base, and the numbers that decide it."""

    rank_1_of_20: float
    id_guidance_scale: float
    leak: float
    wrong_over_right: float
    passed: bool


def gate(report: BaseReport) -> Gate:
    """Return the gate's verdict: rank-1 of 20 at the best identity guidance, and the losses at t = 0.6."""
    best = max(ID_SCALES, key=lambda scale: report["swaps"][_row(scale)]["rank_1_of_20"])
    swaps, loss = report["swaps"][_row(best)], report["loss"]["t=0.6"]
    wrong_over_right = round(loss["wrong"] / loss["right"] - 1, 4)
    return {
        "rank_1_of_20": swaps["rank_1_of_20"],
        "id_guidance_scale": best,
        "leak": swaps["leak"],
        "wrong_over_right": wrong_over_right,
        "passed": swaps["rank_1_of_20"] >= GATE_RANK_1 and wrong_over_right >= GATE_WRONG_OVER_RIGHT,
    }


def _row(scale: float) -> str:
    return f"id_guidance {scale:g}"


def evaluate(
    base: SwapBase, pool: WorldPool, world: WorldConfig, pairs: int, *, steps: int = 12
) -> BaseReport:
    """Return held-out losses and the quality of `pairs` swaps, per guidance and for two reference rows.

    Losses compare the right identity with another person's and with none, on the same noise. Swaps put a
    person on a scene whose condition image was made from someone else. "copy target" is the photo itself,
    "ceiling" the exact swap through the codec. `rank_1_of_20`: how often the exact swap is the nearest among
    20 people rendered into the scene; `leak`: how often the target's own photo is nearer than the exact swap.
    """
    rows = np.flatnonzero(pool.person_N != pool.scene_person_S[pool.scene_N])
    rng = np.random.default_rng(world.seed)
    return {
        "loss": _losses(base, pool, rng.permutation(rows)[:LOSS_ROWS], rng),
        "swaps": _swaps(base, pool, world, rng.permutation(rows)[:pairs], rng, steps),
    }


@torch.inference_mode()
def _losses(
    base: SwapBase, pool: WorldPool, rows: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    codec, model = base.codec, base.model
    latents = codec.encode(pool.targets_NHWC[rows])
    condition = codec.encode(pool.conditions_SHWC[pool.scene_N[rows]])
    noise = noise_rows(rows.tolist(), latents.shape[1], latents.shape[2])
    photo = rng.integers(pool.embeddings_PKD.shape[1], size=len(rows))
    right = torch.from_numpy(pool.embeddings_PKD[pool.person_N[rows], photo])
    # Shifting by one row gives each face to a scene of someone else.
    identities = {"right": right, "wrong": right.roll(1, dims=0), "none": torch.zeros_like(right)}
    text = model.prompts.prompt(len(rows))
    report: dict[str, dict[str, float]] = {}
    for level in NOISE_LEVELS:
        sample = flow_sample(latents, noise, torch.full((len(rows),), level))
        report[f"t={level}"] = {}
        for name, embedding in identities.items():
            velocity = model(
                sample.noisy_BLC,
                sample.timestep_B,
                text,
                condition_BLC=condition,
                identity_BTD=model.identity_encoder(embedding),
            )
            error = (velocity - sample.velocity_BLC).square().mean()
            report[f"t={level}"][name] = round(float(error), 5)
    return report


def _swaps(
    base: SwapBase,
    pool: WorldPool,
    world: WorldConfig,
    rows: NDArray[np.int64],
    rng: np.random.Generator,
    steps: int,
) -> dict[str, SwapNumbers]:
    people = world_people(world)
    person, scene = pool.person_N[rows], pool.scene_N[rows]
    owner = pool.scene_person_S[scene]
    size = base.config.image_size
    # Candidate 0 is the right answer; the target's own person is not among the candidates.
    candidates = []
    for row in range(len(rows)):
        others = np.setdiff1d(np.arange(len(people)), [person[row], owner[row]])
        chosen = np.concatenate([[person[row]], rng.choice(others, CANDIDATES - 1, replace=False)])
        attributes = Attributes(np.repeat(pool.attributes_S[scene[row]][None], CANDIDATES, axis=0))
        candidates.append(render_scene(people[chosen], attributes, size))
    candidates_NKHWC = np.stack(candidates)
    targets = np.concatenate(
        [
            render_scene(people[owner[i : i + 1]], Attributes(pool.attributes_S[scene[i : i + 1]]), size)
            for i in range(len(rows))
        ]
    )
    photo = rng.integers(pool.embeddings_PKD.shape[1], size=len(rows))
    source = torch.from_numpy(pool.embeddings_PKD[person, photo])
    condition = base.codec.encode(pool.conditions_SHWC[scene])
    swapper = Swapper(base)
    ceiling = base.codec.decode(base.codec.encode(candidates_NKHWC[:, 0]))
    report = {
        "copy target": _compare(targets, candidates_NKHWC, targets),
        "ceiling": _compare(ceiling, candidates_NKHWC, targets),
    }
    for scale in ID_SCALES:
        sampling = SamplingConfig(steps=steps, inversion=None, id_guidance_scale=scale)
        latents: Tensor = swapper.swap(source, condition, None, sampling, list(range(len(rows))))
        report[_row(scale)] = _compare(base.codec.decode(latents), candidates_NKHWC, targets)
    return report


def _compare(
    images_NHWC: NDArray[np.uint8], candidates_NKHWC: NDArray[np.uint8], targets_NHWC: NDArray[np.uint8]
) -> SwapNumbers:
    images = images_NHWC.astype(np.float64)
    axes = (-3, -2, -1)
    errors_NK = ((candidates_NKHWC - images[:, None]) ** 2).mean(axis=axes)
    to_target_N = ((targets_NHWC - images) ** 2).mean(axis=axes)
    psnr = 10 * np.log10(255.0**2 / errors_NK[:, 0].clip(1e-9))
    return {
        "psnr": round(float(psnr.mean()), 2),
        "rank_1_of_20": round(float((errors_NK.argmin(axis=1) == 0).mean()), 3),
        "leak": round(float((to_target_N < errors_NK[:, 0]).mean()), 3),
    }


def write_log(output: Path, run_dir: Path) -> None:
    """Write the training log, medians of 100 steps, beside the base."""
    lines = (run_dir / LOSSES_NAME).read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["flow"] for line in lines]
    entries = [
        {
            "step": min(start + LOG_EVERY, len(losses)),
            "loss": round(float(np.median(losses[start : start + LOG_EVERY])), 4),
        }
        for start in range(0, len(losses), LOG_EVERY)
    ]
    log = "".join(json.dumps(entry) + "\n" for entry in entries)
    output.with_name(f"{output.stem}_log.jsonl").write_text(log, encoding="utf-8")


def write_gate(output: Path, report: BaseReport) -> None:
    """Write the gate's verdict and the held-out numbers beside the base."""
    numbers = json.dumps({"gate": gate(report), "held_out": report}, indent=2)
    output.with_name(f"{output.stem}_gate.json").write_text(numbers + "\n", encoding="utf-8")
