"""The forward process q(x_t | x_0) and its posterior q(x_(t-1) | x_t, x_0), for all steps or for some.

Sources: DDPM (arXiv 2006.11239, section 2 and equations 6 and 7); linear betas 1e-4 to 0.02 as in ADM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from models.diffface import constants

StepIndex = int | Tensor
"""Index into a schedule: one for the whole batch, or (B,) integers."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Betas of the steps that are walked, and which step of the original process each of them is.

    All quantities are float64 and, per step, of shape (N,); what is read for images comes in the images'
    type.
    """

    betas: Tensor
    timestep_map: Tensor
    """Original step of each, increasing int64; 0..N-1 where nothing is left out."""
    original_steps: int

    def __post_init__(self) -> None:
        """Check it. Raises ValueError: betas outside 0..1, or a map of another length or order."""
        if self.betas.ndim != 1 or not len(self.betas) or self.betas.dtype != torch.float64:
            raise ValueError("betas must be a non-empty vector of float64")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError("every beta must lie between 0 and 1")
        if self.timestep_map.shape != self.betas.shape or self.timestep_map.dtype != torch.int64:
            raise ValueError(f"{len(self.betas)} betas need as many int64 original steps")
        ordered = bool((self.timestep_map.diff() > 0).all())
        if not ordered or self.timestep_map[0] < 0 or self.timestep_map[-1] >= self.original_steps:
            raise ValueError(f"original steps must increase within 0..{self.original_steps - 1}")

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """What is left of the clean image's power at each step."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """The same one step earlier; 1 before the first."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of x_(t-1) given x_t and x_0: the lower bound of a learned one. 0 at the first step."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Tensor:
        """Its logarithm; at the first step the second's stands in for minus infinity."""
        stand_in = self.posterior_variance[1:2] if len(self) > 1 else self.betas
        return torch.cat([stand_in, self.posterior_variance[1:]]).log()

    @cached_property
    def posterior_mean_weights(self) -> tuple[Tensor, Tensor]:
        """Shares of x_0 and of x_t in the mean of x_(t-1)."""
        left = 1 - self.alphas_cumprod
        of_x0 = self.betas * self.alphas_cumprod_prev.sqrt() / left
        of_xt = (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / left
        return of_x0, of_xt

    def check_index(self, index: StepIndex) -> None:
        """Raise ValueError unless every index is a whole number from 0 to N - 1."""
        if isinstance(index, Tensor):
            whole = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
            inside = whole and index.ndim == 1 and bool(((index >= 0) & (index < len(self))).all())
        else:
            inside = 0 <= index < len(self)
        if not inside:
            raise ValueError(f"a step index must be whole and in 0..{len(self) - 1}, got {index}")

    def take(self, values_N: Tensor, index: StepIndex, like_BCHW: Tensor) -> Tensor:
        """One number per image, (B, 1, 1, 1) or (1, 1, 1, 1), in the type and on the device of the images."""
        values_N = values_N.to(like_BCHW.dtype).to(like_BCHW.device)
        if isinstance(index, Tensor):
            return values_N[index.to(like_BCHW.device)].view(-1, 1, 1, 1)
        return values_N[index].view(1, 1, 1, 1)

    def timesteps(self, index: StepIndex, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """What the network is told: original steps on a scale of 1000, (B,) float32."""
        self.check_index(index)
        scaled = self.timestep_map * (constants.DIFFUSION_STEPS / self.original_steps)
        chosen = scaled[index.cpu()] if isinstance(index, Tensor) else scaled[index].expand(batch)
        return chosen.to(torch.float32).to(device)

    def q_sample(self, x0_BCHW: Tensor, index: StepIndex, noise_BCHW: Tensor) -> Tensor:
        """Noise clean images to a step: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise."""
        self.check_index(index)
        signal = self.take(self.alphas_cumprod.sqrt(), index, x0_BCHW)
        sigma = self.take((1 - self.alphas_cumprod).sqrt(), index, x0_BCHW)
        return signal * x0_BCHW + sigma * noise_BCHW

    def x0_from_epsilon(self, x_BCHW: Tensor, index: StepIndex, epsilon_BCHW: Tensor) -> Tensor:
        """The clean image that this noise would have made x_t of."""
        scale = self.take(self.alphas_cumprod.rsqrt(), index, x_BCHW)
        share = self.take((1 / self.alphas_cumprod - 1).sqrt(), index, x_BCHW)
        return scale * x_BCHW - share * epsilon_BCHW

    def posterior_mean(self, x0_BCHW: Tensor, x_BCHW: Tensor, index: StepIndex) -> Tensor:
        """Mean of x_(t-1) given x_t and x_0 (DDPM, equation 7)."""
        of_x0, of_xt = self.posterior_mean_weights
        return self.take(of_x0, index, x_BCHW) * x0_BCHW + self.take(of_xt, index, x_BCHW) * x_BCHW

    def keeping(self, steps: Sequence[int]) -> NoiseSchedule:
        """The process that visits only these steps of this one, with the same alpha_bar at each.

        Args:
            steps: increasing indices into this schedule.

        Raises:
            ValueError: no step, or steps out of order or range.
        """
        if not steps or any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"steps to keep must be at least one, and increase, got {list(steps)}")
        index = torch.tensor(steps, dtype=torch.int64)
        self.check_index(index)
        kept = self.alphas_cumprod[index]
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        return NoiseSchedule(1 - kept / before, self.timestep_map[index], self.original_steps)


def linear_schedule(steps: int = constants.DIFFUSION_STEPS) -> NoiseSchedule:
    """Linear betas, 1e-4 to 0.02 for 1000 steps; with fewer steps each is larger in proportion."""
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
    scale = constants.DIFFUSION_STEPS / steps
    betas = torch.linspace(
        scale * constants.BETA_START, scale * constants.BETA_END, steps, dtype=torch.float64
    )
    return NoiseSchedule(betas, torch.arange(steps), steps)
