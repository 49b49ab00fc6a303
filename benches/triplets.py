"""Pseudo triplets against a loop in the original's shape, on the tiny base, in one run.

Run `python -m benches.triplets`; the figures go to benches/results/triplets.json. Ours is the swapper behind
the stage `pseudo_triplets`, in batches, from latents and prompts that are kept. The original's loop takes one
pair at a time, encodes the prompt for the inversion and again for the sampling, padded to 512 tokens, and
encodes both pictures. Both invert and sample with equally many steps and decode every swap. Finding the
faces, which the original does for every pair and ours once per photograph, is left out of both; so are files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
    told,
)
from benches.train_step import loaded_base, medians
from models.swap.base import SwapBase
from models.swap.inversion import inversion_inputs, inversion_velocity, invert
from models.swap.sampling import Inputs, euler, guided_velocity, shifted_sigmas
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.text import TextEmbedding

BAR = 2.0
"""Least time of the original's loop over ours."""

OURS = "ours, the real swapper"
NO_DECODING_TO_GATE = "decoding behind the gate"
TRIPLET_CAUSES = {name: field for name, field in CAUSES.items() if name != NO_DECODING_TO_GATE}


@dataclass
class Generator:
    """Triplets in any shape; every call swaps all pairs."""

    base: SwapBase
    encoders: TextEncoders
    photos: Photographs
    shape: Shape
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        """Keep the prompt where the shape keeps it."""
        self.kept = self.encoders(1, self.shape.text_tokens)

    def pictures(self) -> np.ndarray:
        """The swapped pictures of all pairs, (N, S, S, 3) uint8: identity n onto photograph n."""
        count = len(self.photos.people_N)
        parts = [
            self._swap(np.arange(start, min(start + self.shape.rows, count)))
            for start in range(0, count, self.shape.rows)
        ]
        return np.concatenate(parts)

    def _text(self, rows: int) -> TextEmbedding:
        if not self.shape.prompt_kept:
            return self.encoders(rows, self.shape.text_tokens)
        return TextEmbedding(self.kept.tokens_BTD.expand(rows, -1, -1), self.kept.pooled_BD.expand(rows, -1))

    @torch.inference_mode()
    def _swap(self, wanted: np.ndarray) -> np.ndarray:
        base, photos, rows = self.base, self.photos, len(wanted)
        if self.shape.latents_kept:
            targets = torch.from_numpy(photos.targets_NLC[wanted])
            conditions = torch.from_numpy(photos.latent_conditions_NLC[wanted])
        else:
            targets = base.codec.encode(photos.pictures_NHWC[wanted])
            conditions = base.codec.encode(photos.conditions_NHWC[wanted])
        encoder = base.model.identity_encoder
        inputs = Inputs(
            text=self._text(rows),
            condition=conditions,
            identity_BTD=encoder(torch.from_numpy(photos.identity_ND[wanted])),
            unconditional_BTD=encoder.unconditional(rows),
        )
        sigmas = shifted_sigmas(self.sampling.steps, base.config.image_tokens)
        seen = inversion_inputs("noID_trgCond", inputs, None)
        start = invert(inversion_velocity(base.model, seen, self.sampling), targets, sigmas)
        again = replace(inputs, text=self._text(rows))
        swapped = euler(guided_velocity(base.model, again, self.sampling), start, sigmas)
        return base.codec.decode(swapped)


def our_pictures(swapper: Swapper, photos: Photographs, rows: int, sampling: SamplingConfig) -> np.ndarray:
    """All pairs by the real swapper, as the stage calls it."""
    made = []
    for start in range(0, len(photos.people_N), rows):
        part = slice(start, start + rows)
        latents = swapper.swap(
            torch.from_numpy(photos.identity_ND[part]),
            torch.from_numpy(photos.latent_conditions_NLC[part]),
            torch.from_numpy(photos.targets_NLC[part]),
            sampling,
            list(range(len(photos.people_N[part]))),
        )
        made.append(swapper.base.codec.decode(latents))
    return np.concatenate(made)


def measure(pairs: int, rows: int, steps: int, rounds: int) -> dict[str, Any]:
    """All shapes and the real swapper, over the same pairs."""
    torch.manual_seed(0)
    base = loaded_base()
    base.model.requires_grad_(False)
    photos = original_loops.photographs(base, FaceJudge(), pairs)
    encoders = TextEncoders(base.config.transformer)
    sampling = SamplingConfig(steps=steps)
    mine = original_loops.ours(rows, base.config.transformer.text_tokens)
    shapes = {
        **original_loops.ladder(mine, TRIPLET_CAUSES),
        **original_loops.one_by_one(mine, TRIPLET_CAUSES),
        SAME_PROMPT: replace(ORIGINAL, text_tokens=mine.text_tokens),
    }
    ways = {
        name: Generator(base, encoders, photos, shape, sampling).pictures for name, shape in shapes.items()
    }
    swapper = Swapper(base)
    ways[OURS] = lambda: our_pictures(swapper, photos, rows, sampling)
    found = medians(ways, rounds)
    per_second = {
        name: round(pairs / found[way]["median"], 2)
        for name, way in (("original", "original"), ("ours", OURS))
    }
    return {
        "profile": base.config.name,
        "pairs": pairs,
        "rows_together": rows,
        "steps": steps,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "seconds": found,
        "pairs_per_second": per_second,
    } | told(found, TRIPLET_CAUSES, OURS, BAR)


def quick(folder: Path) -> Repetition:
    """Four pairs in two steps: the real swapper over the original's loop with a prompt as short."""
    torch.manual_seed(0)
    base = loaded_base()
    base.model.requires_grad_(False)
    pairs, sampling = 4, SamplingConfig(steps=2)
    photos = original_loops.photographs(base, FaceJudge(), pairs)
    shape = replace(ORIGINAL, text_tokens=base.config.transformer.text_tokens)
    original = Generator(base, TextEncoders(base.config.transformer), photos, shape, sampling)
    swapper = Swapper(base)

    def repeat() -> dict[str, float]:
        ours, theirs = Clock(), Clock()
        with ours.running():
            our_pictures(swapper, photos, pairs, sampling)
        with theirs.running():
            original.pictures()
        return {"seconds of the real swapper over the original's loop": ours.seconds / theirs.seconds}

    return repeat


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result file; 0 when the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument(
        "--rows", type=int, default=8, help="Pairs that ours swaps together; the stage takes up to 32."
    )
    parser.add_argument("--steps", type=int, default=4, help="Steps of inversion, and of sampling.")
    parser.add_argument("--rounds", type=int, default=2, help="Turns of every way after warm-up.")
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "triplets.json")
    chosen = parser.parse_args(arguments)
    facts = measure(chosen.pairs, chosen.rows, chosen.steps, chosen.rounds)
    command = ["python", "-m", "benches.triplets", *(sys.argv[1:] if arguments is None else arguments)]
    write_result(chosen.result, command, ("torch", "diffusers", "transformers", "peft"), facts)
    return 0 if facts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
