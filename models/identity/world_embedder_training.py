"""Make the world's embedder: `python -m models.identity.world_embedder_training --work <folder> --output
<file>`.

Each batch holds two photographs of each of its people. Two losses: the other photograph of the same person is
to be found among everybody's (InfoNCE), and the person's own parameters are to be readable from the embedding
(a linear map), which says from the first step what belongs to a person. A killed run started again with the
same arguments goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from models.identity.world_embedder import (
    WorldNetwork,
    chips_to_tensor,
    load_world_network,
    save_world_network,
)
from models.identity.world_embedder_data import ChipPool, ChipPoolConfig, build_chips
from models.identity.world_embedder_sizes import WORLD_EMBEDDING_SIZE
from models.resumable import log_line, resume_parts, save_parts
from models.worlds.sampling import held_out_seed

STATE_NAME = "embedder_state.pt"
LOG_NAME = "embedder_losses.jsonl"
CLEAR: dict[str, Any] = {"coarse_share": 0.0, "crops": ("face",), "occluded": 0.0, "shake": 0.5}
"""The photographs of the gate: full resolution, face crops with nothing before the face, and points as good
as a detector's."""
GATE_RANK_1 = 0.9
"""Held-out rank-1 of 200 below which nothing may be trained on this embedder."""


class EmbedderRecipe(BaseModel):
    """How the embedder is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cycles: tuple[int, ...] = Field(
        default=(2400, 2000), min_length=1, description="Steps of each cosine; every one starts at the peak."
    )
    people_per_batch: int = Field(default=64, ge=2, description="People in a batch, two photographs each.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak; linear warm-up, cosine to zero.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps of warm-up.")
    weight_decay: float = Field(default=1e-3, ge=0, description="AdamW's.")
    temperature: float = Field(default=0.1, gt=0, description="Of the cosines in InfoNCE.")
    parameter_weight: float = Field(default=3.0, ge=0, description="Weight of the parameters' squared error.")
    checkpoint_interval: int = Field(default=250, ge=1, description="Steps between resumable states.")
    seed: int = Field(default=0, ge=0, description="Decides weights and batches.")

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return sum(self.cycles)


def draw_batch(pool: ChipPool, recipe: EmbedderRecipe, step: int) -> tuple[Tensor, Tensor]:
    """Return chips (2 P, 3, 64, 64), first photographs then second ones, and parameters (2 P, I).

    A function of (seed, step) alone: a resumed run draws what an unbroken one would.
    """
    rng = np.random.default_rng([recipe.seed, step])
    people = rng.choice(len(pool.chips_PKHW3), recipe.people_per_batch, replace=False)
    first = rng.integers(pool.photos, size=len(people))
    second = (first + rng.integers(1, pool.photos, size=len(people))) % pool.photos
    rows, photos = np.concatenate([people, people]), np.concatenate([first, second])
    chips = chips_to_tensor(pool.chips_PKHW3[rows, photos])
    # brightness and contrast of a camera the world does not have
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(rows), 3, 1, 1)).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-0.08, 0.08, (len(rows), 1, 1, 1)).astype(np.float32))
    return (chips * gain + offset).clamp(-1, 1), torch.from_numpy(pool.identities_PI[rows])


def batch_loss(
    features_BD: Tensor, parameters_BI: Tensor, reader: nn.Linear, recipe: EmbedderRecipe
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE and the mean squared error of the parameters read from unit embeddings."""
    unit_BD = functional.normalize(features_BD, dim=-1)
    cosines_BB = unit_BD @ unit_BD.T / recipe.temperature
    count = len(unit_BD)
    cosines_BB = cosines_BB.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf)
    partner_B = torch.arange(count).roll(count // 2)
    found = functional.cross_entropy(cosines_BB, partner_B)
    # parameters run over [-1, 1]; embeddings of length 1 have entries of about 1 / sqrt(128)
    read_BI = reader(unit_BD * WORLD_EMBEDDING_SIZE**0.5)
    return found, functional.mse_loss(read_BI, parameters_BI)


def rate(recipe: EmbedderRecipe, step: int) -> float:
    """Return the learning rate of a step, counted from 0: cosines to zero, each behind a warm-up."""
    for cycle in recipe.cycles:
        if step < cycle:
            break
        step -= cycle
    else:
        raise ValueError(f"step {step + recipe.steps} lies behind the last of {recipe.steps}")
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    share = (step - recipe.warmup_steps) / max(1, cycle - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + float(np.cos(np.pi * share)))


def train_embedder(pool: ChipPool, recipe: EmbedderRecipe, work_dir: Path) -> WorldNetwork:
    """Train, or go on with, the run of this recipe in `work_dir`; return the network in evaluation mode.

    Raises:
        ValueError: `work_dir` holds the state of another recipe.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = WorldNetwork()
        reader = nn.Linear(WORLD_EMBEDDING_SIZE, pool.identities_PI.shape[1])
    parameters = [*network.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    parts: dict[str, Any] = {"network": network, "reader": reader, "optimiser": optimiser}
    state_path = work_dir / STATE_NAME
    first = resume_parts(state_path, recipe, parts)
    began = time.monotonic()
    network.train()
    for step in range(first, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(recipe, step)
        chips, identities = draw_batch(pool, recipe, step)
        found, read = batch_loss(network.features(chips), identities, reader, recipe)
        loss = found + recipe.parameter_weight * read
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        done = step + 1
        if done % 50 == 0 or done == recipe.steps:
            speed = (done - first) * len(chips) / (time.monotonic() - began)
            entry = {
                "step": done,
                "info_nce": round(float(found.detach()), 4),
                "parameters": round(float(read.detach()), 4),
            }
            log_line(f"{json.dumps(entry)} {speed:.0f} chips/s")
            with (work_dir / LOG_NAME).open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
        if done % recipe.checkpoint_interval == 0 or done == recipe.steps:
            save_parts(state_path, recipe, done, parts)
    return network.eval()


@torch.inference_mode()
def evaluate_embedder(network: WorldNetwork, pool: ChipPool) -> dict[str, float]:
    """Return held-out figures: each person's first photograph is looked for among everybody's second.

    `rank_1` is over all people of the pool; `same` and `other` are mean cosines of pairs.
    """
    people, photos = pool.chips_PKHW3.shape[:2]
    chips = chips_to_tensor(pool.chips_PKHW3.reshape(-1, *pool.chips_PKHW3.shape[2:]))
    unit = torch.cat([network(part) for part in chips.split(256)]).reshape(people, photos, -1).numpy()
    cosines = unit[:, 0] @ unit[:, 1].T
    own = np.eye(people, dtype=bool)
    return {
        "people": people,
        "rank_1": round(float((cosines.argmax(axis=1) == np.arange(people)).mean()), 4),
        "same": round(float(cosines[own].mean()), 4),
        "other": round(float(cosines[~own].mean()), 4),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.identity.world_embedder_training", description=__doc__
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the pool and resumable states")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--cycles", type=int, nargs="+", default=EmbedderRecipe().cycles)
    parser.add_argument("--people", type=int, default=ChipPoolConfig().people)
    parser.add_argument("--photos", type=int, default=ChipPoolConfig().photos)
    parser.add_argument("--held-out-people", type=int, default=200)
    parser.add_argument("--checkpoint-interval", type=int, default=EmbedderRecipe().checkpoint_interval)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pool_config = ChipPoolConfig(seed=arguments.seed, people=arguments.people, photos=arguments.photos)
    recipe = EmbedderRecipe(
        cycles=tuple(arguments.cycles), seed=arguments.seed, checkpoint_interval=arguments.checkpoint_interval
    )
    pool = build_chips(pool_config, arguments.work, log_line, workers=arguments.threads)
    save_world_network(arguments.output, train_embedder(pool, recipe, arguments.work))
    held_out = ChipPoolConfig(
        seed=held_out_seed(arguments.seed), people=arguments.held_out_people, photos=2, **CLEAR
    )
    report: dict[str, Any] = dict(
        evaluate_embedder(
            load_world_network(arguments.output), build_chips(held_out, arguments.work, log_line)
        )
    )
    report |= {"gate": GATE_RANK_1, "passed": report["rank_1"] >= GATE_RANK_1}
    text = json.dumps(report, indent=2)
    output: Path = arguments.output
    output.with_name(f"{output.stem}_gate.json").write_text(text + "\n", encoding="utf-8")
    log = (arguments.work / LOG_NAME).read_text(encoding="utf-8")
    output.with_name(f"{output.stem}_log.jsonl").write_text(log, encoding="utf-8")
    log_line(text)
    if not report["passed"]:
        raise SystemExit(f"the embedder does not pass its gate: rank-1 {report['rank_1']} < {GATE_RANK_1}")


if __name__ == "__main__":
    main()
