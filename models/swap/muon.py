"""Muon: the matrices of hidden layers move by the orthogonal part of their momentum (Jordan et al., 2024).

`torch.optim.Muon` computes that part in bfloat16, which processors without such units emulate at a thirtieth
of their speed, and takes matrices alone; this one computes in the weights' own format and moves everything
else as AdamW does, so that a run has one optimiser to save and to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, chosen by its author for a steep slope at zero: singular values end between
about 0.7 and 1.2, which is near enough to 1."""
ITERATIONS = 5
RATE_AS_ADAMW = 0.2
"""An orthogonal n x m update has entries of root mean square 1 / sqrt(max(n, m)), AdamW's about 0.2 (Liu et
al., "Muon is scalable for LLM training", 2025): scaled to that, both kinds share one learning rate."""


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon moves the named parameter of a `SwapTransformer`: maps from hidden to hidden layers.

    Embeddings of latents, text and time, and the map to velocities, are AdamW's, as are vectors.
    """
    inside = "transformer_blocks." in name or name.startswith(("identity_encoder.", "identity_attention."))
    return inside and parameter.ndim == 2


def orthogonal_part(matrix_NM: Tensor) -> Tensor:
    """Return the matrix with its singular values brought near to 1, by Newton-Schulz iterations."""
    a, b, c = QUINTIC
    tall = matrix_NM.shape[0] > matrix_NM.shape[1]
    x = matrix_NM.T if tall else matrix_NM
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW for all other `parameters`, one learning rate and decoupled decay."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        matrices: Set[nn.Parameter],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})
        self._matrices = {id(parameter) for parameter in matrices}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] -- torch declares overloads for one behaviour
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if id(parameter) in self._matrices:
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
            update = orthogonal_part(gradient + MOMENTUM * momentum)
            parameter.add_(update, alpha=-group["lr"] * RATE_AS_ADAMW * max(parameter.shape) ** 0.5)
            return
        if not state:
            state["step"] = torch.zeros(())
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        (beta_1, beta_2), step = group["betas"], int(state["step"].add_(1))
        first = state["first"].lerp_(gradient, 1 - beta_1) / (1 - beta_1**step)
        second = state["second"].lerp_(gradient.square(), 1 - beta_2) / (1 - beta_2**step)
        parameter.addcdiv_(first, second.sqrt().add_(group["eps"]), value=-group["lr"])
