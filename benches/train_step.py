"""A training step against a loop in the original's shape, on the tiny base, in one run.

Run `python -m benches.train_step`; the figures go to benches/results/train_step.json. Ours is
`models.swap.training.train` itself, with its checkpoints and its log. Both make optimiser steps of equally
many rows. The ladder changes the original's shape into ours one cause after another, and the second list puts
single causes back into ours. The prompt's 512 tokens weigh more beside the tiny base's 16 image tokens than
beside FLUX's 1,024, so the factor without them is given too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benches import original_loops
from benches.clocks import Clock
from benches.measuring import Repetition, write_result
from benches.original_loops import (
    CAUSES,
    ORIGINAL,
    SAME_PROMPT,
    FaceJudge,
    Photographs,
    Shape,
    TextEncoders,
    Trainer,
    told,
)
from models.swap.base import SwapBase, load_base
from models.swap.data import TeacherData
from models.swap.losses import LossNetworks
from models.swap.training import train
from models.swap.training_recipe import TrainingRecipe

BASE = Path(__file__).resolve().parent.parent / "models" / "swap" / "checkpoints" / "tiny_base.safetensors"
BAR = 1.5
"""Least time of the original's loop over ours."""

OURS = "ours, the real loop"
PHOTOGRAPHS = 256
WARM_UP = 2
REAL_STEPS = 4
"""Steps of the real loop in each turn."""


def medians(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median and quartile range of every way's seconds; the ways take turns, so that all see one machine.

    A way that times itself returns a list of seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(WARM_UP + rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            own = way()
            if turn >= WARM_UP:
                whole = [time.perf_counter() - started]
                seconds[name] += own if isinstance(own, list) else whole
    return {name: spread(times) for name, times in seconds.items()}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, and how far the quartiles are apart."""
    low, high = np.percentile(seconds, (25, 75))
    return {"median": round(median(seconds), 5), "quartiles_apart": round(float(high - low), 5)}


def loaded_base() -> SwapBase:
    """The tiny base with fresh adapters."""
    base = load_base(BASE)
    base.model.add_lora(base.config.lora, seed=0)
    return base


def our_steps(base: SwapBase, judge: FaceJudge, photos: Photographs, batch: int, steps: int) -> list[float]:
    """Seconds of so many steps of the real training loop; the first two and the last are left out."""
    total = steps + WARM_UP + 1
    recipe = TrainingRecipe(
        steps=total,
        batch_size=batch,
        identity_loss_weight=original_loops.PICTURE_WEIGHT,
        identity_loss_threshold=original_loops.THRESHOLD,
        identity_loss_start=0,
        lpips_weight=0.0,
        validation_interval=None,
        checkpoint_interval=total,
    )
    data = TeacherData(
        photos.targets_NLC,
        photos.latent_conditions_NLC,
        photos.identity_ND,
        photos.people_N,
        reference_ND=photos.reference_ND,
    )
    marks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="orchard-train-step-") as folder:
        train(
            base.model,
            data,
            recipe,
            Path(folder) / "run",
            codec=base.codec,
            black_latents_LC=base.black_latents_LC(),
            networks=LossNetworks(encode_face=judge),
            on_step=lambda step, losses: marks.append(time.perf_counter()),
        )
    # the last step's mark comes after the state was written, which a real run does every 250 steps
    return [float(seconds) for seconds in np.diff(marks)[WARM_UP - 1 : -1]]


def measure(batch: int, rounds: int) -> dict[str, Any]:
    """All shapes and the real loop."""
    torch.manual_seed(0)
    base = loaded_base()
    judge, encoders = FaceJudge(), TextEncoders(base.config.transformer)
    photos = original_loops.photographs(base, judge, PHOTOGRAPHS)
    mine = original_loops.ours(batch, base.config.transformer.text_tokens)
    short = replace(ORIGINAL, text_tokens=mine.text_tokens)
    shapes: dict[str, Shape] = {
        **original_loops.ladder(mine, CAUSES),
        **original_loops.one_by_one(mine, CAUSES),
        SAME_PROMPT: short,
    }
    trainers = {name: Trainer(base, encoders, judge, photos, shape, batch) for name, shape in shapes.items()}
    ways: dict[str, Callable[[], object]] = {name: trainer.step for name, trainer in trainers.items()}
    ways[OURS] = lambda: our_steps(base, judge, photos, batch, REAL_STEPS)
    found = medians(ways, rounds)
    decoded = {name: trainer.decoded for name, trainer in trainers.items()}
    return {
        "profile": base.config.name,
        "rows_per_step": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "decoded_share": {
            name: round(decoded[name] / batch / (rounds + WARM_UP), 3)
            for name in ("original", f"+ {list(CAUSES)[-1]}")
        },
        "seconds_per_step": found,
    } | told(found, CAUSES, OURS, BAR)


def quick(folder: Path) -> Repetition:
    """The real loop on four rows, over our bare step and over the original's with a prompt as short."""
    torch.manual_seed(0)
    base = loaded_base()
    judge, encoders = FaceJudge(), TextEncoders(base.config.transformer)
    photos = original_loops.photographs(base, judge, PHOTOGRAPHS // 8)
    batch = 4
    mine = original_loops.ours(batch, base.config.transformer.text_tokens)
    shapes = {"the original's": replace(ORIGINAL, text_tokens=mine.text_tokens), "the bare step": mine}
    trainers = {name: Trainer(base, encoders, judge, photos, shape, batch) for name, shape in shapes.items()}

    def repeat() -> dict[str, float]:
        ours = median(our_steps(base, judge, photos, batch, 2 * REAL_STEPS))
        found = {}
        for name, trainer in trainers.items():
            clock = Clock()
            for _ in range(REAL_STEPS):
                with clock.running():
                    trainer.step()
            found[f"seconds of a step, the real loop over {name}"] = ours * REAL_STEPS / clock.seconds
        return found

    return repeat


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result file; 0 when the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="Rows of an optimiser step; the paper's 16.")
    parser.add_argument("--rounds", type=int, default=15, help="Turns of every way after warm-up.")
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "train_step.json")
    chosen = parser.parse_args(arguments)
    facts = measure(chosen.batch, chosen.rounds)
    command = ["python", "-m", "benches.train_step", *(sys.argv[1:] if arguments is None else arguments)]
    write_result(chosen.result, command, ("torch", "diffusers", "transformers", "peft", "accelerate"), facts)
    return 0 if facts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
