"""Optimisers of a training recipe, their learning rate over time, and a moving average of the weights."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from prodigyopt import Prodigy
from torch import Tensor, nn

from models.swap.muon import Muon, is_hidden_matrix
from models.swap.training_recipe import TrainingRecipe


def build_optimiser(
    recipe: TrainingRecipe, named_parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the parameters, whose moments take the parameters' format."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    parameters = list(named_parameters.values())
    if recipe.optimiser == "muon":
        matrices = {value for name, value in named_parameters.items() if is_hidden_matrix(name, value)}
        return Muon(parameters, matrices, rate, decay, recipe.betas, recipe.epsilon)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=recipe.momentum)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(
            parameters, lr=rate, weight_decay=decay, betas=recipe.betas, eps=recipe.epsilon
        )
    with contextlib.redirect_stdout(io.StringIO()):  # it announces its decoupled decay by print
        return Prodigy(
            parameters,
            lr=rate,
            weight_decay=decay,  # pyright: ignore[reportArgumentType] -- its default 0 is taken for its type
            betas=recipe.betas,
            eps=recipe.epsilon,
            use_bias_correction=recipe.use_bias_correction,
            safeguard_warmup=recipe.safeguard_warmup,
        )


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Return the learning rate of the 1-based step: linear warm-up, then constant or half a cosine."""
    rate = recipe.learning_rate
    if step <= recipe.warmup_steps:
        return rate * step / recipe.warmup_steps
    if recipe.schedule == "constant":
        return rate
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step move at this rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def effective_rate(optimiser: torch.optim.Optimizer) -> float:
    """Return the rate that the last step moved at: for Prodigy the given factor times the rate it found."""
    group = optimiser.param_groups[0]
    return float(group["lr"] * group.get("d", 1.0))


class MovingAverage:
    """Exponential moving average of named parameters, in their own format.

    The decay rises as (1 + k) / (10 + k) over the first steps k, so that the start is soon forgotten, until
    it reaches the given one.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = dict(parameters), decay
        self.values = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the 1-based step."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._parameters.items():
            self.values[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Put the average in the place of the weights."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.values[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        raw = {name: value.detach().clone() for name, value in self._parameters.items()}
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(raw[name])
