"""Make the world's parser and gaze network: `python -m models.diffface.world_experts_training --work <folder>
--output <folder>`.

Both learn from rendered faces with exact answers, and both see them worse than they are: mirrored, with other
exposure, and noisy, as a guided denoiser's estimates are. A killed run started again with the same arguments
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.diffface.world_expert_data import (
    SIZES,
    ExpertPool,
    ExpertPoolConfig,
    build_expert_pool,
    mirrored_classes,
)
from models.diffface.world_expert_evaluation import evaluate_gaze, evaluate_parser
from models.diffface.world_gaze import WorldGaze, eye_batch, gaze_loss, load_world_gaze, save_world_gaze
from models.diffface.world_parser import WorldParser, load_world_parser, save_world_parser
from models.faces.constants import CLASS_NAMES
from models.resumable import log_line, resume_parts, save_parts
from models.swap.config import FrozenConfig
from models.worlds.sampling import held_out_seed

LOG_EVERY = 50
PARSER, GAZE = "world_parser", "world_gaze"
"""Names of the files."""


class ExpertRecipe(FrozenConfig):
    """How one of the networks is trained: AdamW, a warm-up and half a cosine."""

    steps: int = Field(default=1200, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=32, ge=1, description="Faces of a step.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak.")
    warmup_steps: int = Field(default=50, ge=0, description="Steps of linear rise.")
    weight_decay: float = Field(default=1e-3, ge=0, description="AdamW's.")
    large_share: float = Field(
        default=0.25, ge=0, le=1, description="Steps whose faces are 64 px; the others' are 32 px."
    )
    noise: float = Field(default=0.12, ge=0, description="Greatest deviation of the noise, pixels of 0..1.")
    checkpoint_interval: int = Field(default=100, ge=1, description="Steps between resumable states.")
    seed: int = Field(default=0, ge=0, description="Decides weights and batches.")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


PARSER_RECIPE = ExpertRecipe()
GAZE_RECIPE = ExpertRecipe(steps=2400)


def draw_faces(
    pool: ExpertPool, recipe: ExpertRecipe, step: int
) -> tuple[int, np.ndarray, Tensor, np.random.Generator]:
    """Return a step's size, rows and spoilt pictures (B, 3, S, S) in 0..1, and the generator for more.

    A function of (seed, step) alone: a resumed run draws what an unbroken one would.
    """
    rng = np.random.default_rng([recipe.seed, step])
    size = SIZES[int(rng.random() < recipe.large_share)]
    rows = rng.integers(len(pool), size=recipe.batch_size)
    images = pool.images(size)[rows].transpose(0, 3, 1, 2).astype(np.float32) / 255
    gain = rng.uniform(0.8, 1.2, (len(rows), 3, 1, 1))
    offset = rng.uniform(-0.05, 0.05, (len(rows), 1, 1, 1))
    deviation = rng.uniform(0, recipe.noise, (len(rows), 1, 1, 1)) * (rng.random((len(rows), 1, 1, 1)) < 0.5)
    noise = deviation * rng.standard_normal(images.shape, np.float32)
    return size, rows, torch.from_numpy(np.clip(images * gain + offset + noise, 0, 1)).float(), rng


def class_weights(pool: ExpertPool) -> Tensor:
    """Return weights of the classes (19,): the rarer, the heavier, by the root of their share; at most 6."""
    counts = np.bincount(pool.parsing_32_NHW.ravel(), minlength=len(CLASS_NAMES)).astype(np.float64)
    weights = np.clip(np.sqrt(0.1 * counts.sum() / counts.clip(1)), 0.5, 6.0)
    return torch.from_numpy(np.where(counts > 0, weights, 0.0)).float()


def parser_loss(
    parser: WorldParser, pool: ExpertPool, recipe: ExpertRecipe, step: int, weights: Tensor
) -> Tensor:
    """Return the weighted cross entropy of a step's faces, half of them mirrored."""
    size, rows, images, rng = draw_faces(pool, recipe, step)
    classes = pool.parsing(size)[rows]
    mirrored = rng.random(len(rows)) < 0.5
    classes[mirrored] = mirrored_classes(classes[mirrored])
    images = torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(3), images)
    return functional.cross_entropy(parser(images), torch.from_numpy(classes).long(), weights)


def train_network(
    network: nn.Module,
    loss_of: Callable[[int], Tensor],
    recipe: ExpertRecipe,
    work_dir: Path,
    name: str,
) -> None:
    """Train a network, or go on with its run in `work_dir`, and leave it in evaluation mode.

    Raises:
        ValueError: `work_dir` holds the state of another recipe.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    parts: dict[str, Any] = {"network": network, "optimiser": optimiser}
    state_path, log_path = work_dir / f"{name}_state.pt", work_dir / f"{name}_losses.jsonl"
    first = resume_parts(state_path, recipe, parts)
    kept = log_path.read_text(encoding="utf-8").splitlines() if log_path.exists() else []
    entries = [line for line in kept if json.loads(line)["step"] <= first]
    log_path.write_text("".join(line + "\n" for line in entries), encoding="utf-8")
    network.train()
    began, seen = time.monotonic(), []
    for step in range(first, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        seen.append(float(loss.detach()))
        done = step + 1
        if done % LOG_EVERY == 0 or done == recipe.steps:
            entry = {"step": done, "loss": round(float(np.median(seen[-LOG_EVERY:])), 5)}
            speed = (done - first) * recipe.batch_size / (time.monotonic() - began)
            log_line(f"{name} {json.dumps(entry)} {speed:.0f} faces/s")
            with log_path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
        if done % recipe.checkpoint_interval == 0 or done == recipe.steps:
            save_parts(state_path, recipe, done, parts)
    network.eval()


def fresh(make: Callable[[], nn.Module], seed: int) -> Any:
    """Return a new network whose weights the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def train_parser(pool: ExpertPool, recipe: ExpertRecipe, work_dir: Path) -> WorldParser:
    """Train the parser, or go on with it."""
    parser: WorldParser = fresh(WorldParser, recipe.seed)
    weights = class_weights(pool)
    train_network(
        parser, lambda step: parser_loss(parser, pool, recipe, step, weights), recipe, work_dir, "parser"
    )
    return parser


def train_gaze(pool: ExpertPool, recipe: ExpertRecipe, work_dir: Path) -> WorldGaze:
    """Train the gaze network, or go on with it."""
    network: WorldGaze = fresh(WorldGaze, recipe.seed)

    def loss_of(step: int) -> Tensor:
        _, rows, images, rng = draw_faces(pool, recipe, step)
        eyes, points, gaze = eye_batch(
            images, pool.landmarks_N682[rows], pool.eyes_N2K2[rows], pool.gaze_N2[rows], network.config, rng
        )
        return gaze_loss(network(eyes), points, gaze)

    train_network(network, loss_of, recipe, work_dir, "gaze")
    return network


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.diffface.world_experts_training", description=__doc__
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the faces and resumable states")
    parser.add_argument("--output", type=Path, required=True, help="folder of the files to write")
    parser.add_argument("--faces", type=int, default=ExpertPoolConfig().faces)
    parser.add_argument("--held-out-faces", type=int, default=300)
    parser.add_argument("--parser-steps", type=int, default=PARSER_RECIPE.steps)
    parser.add_argument("--gaze-steps", type=int, default=GAZE_RECIPE.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    work, output = arguments.work, arguments.output
    pool = build_expert_pool(ExpertPoolConfig(seed=arguments.seed, faces=arguments.faces), work, log_line)
    held_out = build_expert_pool(
        ExpertPoolConfig(seed=held_out_seed(arguments.seed), faces=arguments.held_out_faces), work, log_line
    )
    recipe = PARSER_RECIPE.model_copy(update={"steps": arguments.parser_steps, "seed": arguments.seed})
    save_world_parser(output / f"{PARSER}.safetensors", train_parser(pool, recipe, work))
    report = evaluate_parser(load_world_parser(output / f"{PARSER}.safetensors"), held_out)
    passed = write_report(output, PARSER, work / "parser_losses.jsonl", report)
    recipe = GAZE_RECIPE.model_copy(update={"steps": arguments.gaze_steps, "seed": arguments.seed})
    save_world_gaze(output / f"{GAZE}.safetensors", train_gaze(pool, recipe, work))
    report = evaluate_gaze(load_world_gaze(output / f"{GAZE}.safetensors"), held_out, pool)
    passed &= write_report(output, GAZE, work / "gaze_losses.jsonl", report)
    if not passed:
        raise SystemExit(f"a network in {output} does not pass its gate: nothing may be guided by it")


def write_report(output: Path, name: str, log: Path, report: dict[str, Any]) -> bool:
    """Write the gate's verdict with the held-out figures, and the log, beside a network."""
    text = json.dumps(report, indent=2)
    (output / f"{name}_gate.json").write_text(text + "\n", encoding="utf-8")
    (output / f"{name}_log.jsonl").write_text(log.read_text(encoding="utf-8"), encoding="utf-8")
    log_line(f"{name} {json.dumps(report)}")
    return bool(report["passed"])


if __name__ == "__main__":
    main()
