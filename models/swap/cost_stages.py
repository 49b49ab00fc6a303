"""From counts to hours: how much work each stage is, and how long a card takes for it under assumptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch.utils import benchmark

from models.swap.cost import BYTES_PER_ADAPTER_NUMBER, ModelCost
from models.swap.sampling_config import SamplingConfig
from models.swap.training_recipe import TrainingRecipe

SUSTAINED = 0.35
"""Share of the dense bf16 peak that is assumed to be reached, over whole steps."""

SUSTAINED_RANGE = (0.25, 0.45)
"""What well and badly fed cards reach with transformers of this size: an assumption, not measured here."""

MATRIX_SECONDS = 0.2


@dataclass(frozen=True)
class Gpu:
    """A card: dense bfloat16 peak (float32 accumulation, no sparsity), memory, and where the figures are."""

    name: str
    peak_tflops: float
    gigabytes: float
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 989.4, 141, "NVIDIA H200 data sheet (SXM): half of the figure with sparsity"),
        Gpu("h100", 989.4, 80, "NVIDIA H100 data sheet (SXM5): half of the figure with sparsity"),
        Gpu("h100-pcie", 756.0, 80, "NVIDIA H100 data sheet (PCIe): half of the figure with sparsity"),
        Gpu("a100", 312.0, 80, "NVIDIA A100 data sheet: without sparsity"),
        Gpu("l40s", 362.05, 48, "NVIDIA L40S data sheet: without sparsity"),
        Gpu("rtx6000ada", 364.2, 48, "NVIDIA RTX 6000 Ada data sheet: a quarter of its FP8 with sparsity"),
        Gpu("a6000", 154.8, 48, "NVIDIA RTX A6000 data sheet: half of the figure with sparsity"),
        Gpu("rtx4090", 165.2, 24, "NVIDIA Ada whitepaper: FP16 or BF16 with FP32 accumulation"),
        Gpu("rtx3090", 71.0, 24, "NVIDIA GA102 whitepaper: BF16 with FP32 accumulation"),
    )
}
"""Cards by name. Clocks, power limits and cooling move the peak; the figures are the makers'."""


@dataclass(frozen=True)
class StageWork:
    """The work of one stage: so many units, each so many operations."""

    stage: str
    units: int
    unit: str
    flops_each: float
    note: str = ""
    cpu_hours: float | None = None

    @property
    def flops(self) -> float:
        """Operations of the whole stage."""
        return self.units * self.flops_each

    def hours(self, flops_per_second: float, cards: int) -> float:
        """Hours of `cards` cards that share the work evenly."""
        return self.flops / flops_per_second / cards / 3600


def below(threshold: float) -> float:
    """P(t <= threshold) of the training's noise levels, t = sigmoid of a standard normal."""
    if threshold <= 0 or threshold >= 1:
        return float(threshold >= 1)
    return NormalDist().cdf(math.log(threshold / (1 - threshold)))


def training_work(stage: str, cost: ModelCost, recipe: TrainingRecipe) -> StageWork:
    """A whole training: every sample's step, and decoding with its losses for those behind the gates."""
    checkpointing = recipe.gradient_checkpointing
    plain = cost.training.of(checkpointing=checkpointing, decoding=False).flops
    decoded = cost.training.of(checkpointing=checkpointing, decoding=True).flops
    gates = []
    if recipe.needs_identity_network:
        gates.append((recipe.identity_loss_threshold, recipe.identity_loss_start))
    if recipe.needs_perceptual_network:
        gates.append((recipe.lpips_threshold, recipe.lpips_start))
    share, note = 0.0, "no picture is decoded"
    if gates:
        threshold, start = max(gate[0] for gate in gates), min(gate[1] for gate in gates)
        share = below(threshold) * max(0.0, 1 - start / recipe.steps)
        note = f"{share:.0%} of the samples are decoded for the losses on the picture"
    samples = recipe.steps * recipe.batch_size
    note = f"{recipe.steps:,} steps of {recipe.batch_size}; {note}"
    return StageWork(stage, samples, "sample", plain + share * (decoded - plain), note)


def swap_flops(cost: ModelCost, sampling: SamplingConfig) -> tuple[float, str]:
    """Operations of one swap, inversion and decoding included, and its passes in words."""
    words = f"{sampling.passes} passes, inversion and guidance included"
    if sampling.inversion is None:
        words = f"{sampling.passes} passes, guidance included"
    cached = cost.config.condition.independent_condition
    flops = cost.sampling(sampling.passes, cached=cached) + cost.decode.flops
    return flops, words + (", condition computed once" if cached else "")


def training_memory(cost: ModelCost, recipe: TrainingRecipe, cards: int) -> dict[str, float]:
    """Gigabytes of one card while training, by part; the sum is an upper bound, for not all peak at once."""
    adapters = cost.parameters.get("lora", 0) * BYTES_PER_ADAPTER_NUMBER
    moments = {"adamw": 2, "prodigy": 4, "sgd": 1 if recipe.momentum else 0}[recipe.optimiser]
    rows = micro_batch(recipe, cards)
    decoding = recipe.needs_identity_network or recipe.needs_perceptual_network
    activations = cost.training.of(checkpointing=recipe.gradient_checkpointing, decoding=decoding)
    sizes = {
        "weights": sum(size for name, size in cost.weight_bytes().items() if name != "lora"),
        "adapters": adapters,
        "gradients": adapters,
        f"optimiser ({recipe.optimiser})": moments * adapters,
        "moving average": adapters if recipe.ema_decay is not None else 0,
        f"activations, {rows} row{'s' if rows > 1 else ''}": rows * activations.peak_bytes,
    }
    parts = {name: size / 1e9 for name, size in sizes.items() if size}
    return parts | {"together": sum(parts.values())}


def micro_batch(recipe: TrainingRecipe, cards: int) -> int:
    """Rows that go through the model at once on one card."""
    return recipe.micro_batch_size or -(-recipe.batch_size // cards)


def measured_cpu_flops(width: int, rows: int) -> float:
    """Operations per second of this CPU, measured now on a float32 product of (rows, width) and (width, 4
    width) with the threads torch has.
    """
    left, right = torch.randn(rows, width), torch.randn(width, 4 * width)
    timer = benchmark.Timer(
        "left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads()
    )
    seconds = timer.blocked_autorange(min_run_time=MATRIX_SECONDS).median
    return 2 * rows * width * 4 * width / seconds


def total_hours(stages: Sequence[StageWork], flops_per_second: float, cards: int) -> float:
    """Hours of all stages after one another."""
    return sum(stage.hours(flops_per_second, cards) for stage in stages)
