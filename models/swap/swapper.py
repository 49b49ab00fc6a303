"""A face swapper ready to use: base, optional adapters, and the whole of sampling behind one call."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from models.swap.base import SwapBase, load_base
from models.swap.checkpoint import MANIFEST_NAME, load_checkpoint
from models.swap.condition_cache import cache_refusal
from models.swap.execution_config import ExecutionConfig
from models.swap.inversion import inversion_inputs, inversion_velocity, invert, partial_sigmas
from models.swap.lora_files import LoraMismatch, apply_lora, read_lora
from models.swap.sampling import (
    Inputs,
    guided_velocity,
    integrate,
    noise_rows,
    shifted_sigmas,
    with_cached_conditions,
)
from models.swap.sampling_config import SamplingConfig

logger = logging.getLogger(__name__)


class Swapper:
    """Swap faces in latent space. `base` gives codec and config; images stay with the caller.

    What is chosen automatically is logged, and kept with its reason in `choices`: `attention` and
    `condition cache`.

    Raises AttentionUnavailable when `execution` names an attention kernel that does not run here.
    """

    def __init__(
        self, base: SwapBase, *, device: str = "cpu", execution: ExecutionConfig | None = None
    ) -> None:
        execution = execution or ExecutionConfig()
        self.base = base
        self.device = torch.device(device)
        attention = base.model.use_attention(execution.attention)
        self.caches_condition, reason = _condition_cache(base, execution)
        logger.info("condition cache: %s", reason)
        self.choices = {
            "attention": f"{attention.backend}: {attention.reason}",
            "condition cache": reason,
        }
        self._black_1LC = base.black_latents_LC().to(self.device)[None]

    @classmethod
    def load(
        cls,
        base_path: Path,
        lora_path: Path | None = None,
        device: str = "cpu",
        execution: ExecutionConfig | None = None,
    ) -> Swapper:
        """Load our own one-file base and, if given, adapters on top, as `on_base` does."""
        return cls.on_base(load_base(base_path, device=device), lora_path, device=device, execution=execution)

    @classmethod
    def on_base(
        cls,
        base: SwapBase,
        lora_path: Path | None = None,
        *,
        device: str = "cpu",
        execution: ExecutionConfig | None = None,
    ) -> Swapper:
        """Put a LoRA file or checkpoint folder, if given, on a base; it is checked strictly.

        Raises LoraMismatch if the adapters do not fit, or their manifest names another base, and
        AttentionUnavailable.
        """
        if lora_path is not None:
            apply_lora(base.model, verified_lora(base, lora_path))
            base.model.requires_grad_(False).to(device)
        return cls(base, device=device, execution=execution)

    def use_adapters(self, lora: Mapping[str, Tensor]) -> None:
        """Put other adapters, of `verified_lora` of the same base, in place of those that are on it."""
        apply_lora(self.base.model, lora)
        self.base.model.requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def swap(
        self,
        source_embedding_BD: Tensor,
        condition_latents_BLC: Tensor | None,
        target_latents_BLC: Tensor | None,
        sampling: SamplingConfig,
        seeds: Sequence[int],
        *,
        target_embedding_BD: Tensor | None = None,
    ) -> Tensor:
        """Return the latents (B, L, C), float32 on the CPU, of the source's face in the target's picture.

        With `sampling.inversion` the target's latents are inverted and sampled from there, and the seeds play
        no part; without, every row starts from the noise of its own seed. A row's result does not depend on
        the rest of its batch, up to floating-point rounding.

        Args:
            source_embedding_BD: whose face.
            condition_latents_BLC: latents of the target's condition image (teacher) or of the target itself
            (student);
                None removes the branch.
            target_latents_BLC: latents of the target; needed for inversion alone.
            sampling: steps, guidances, inversion.
            seeds: one per row.
            target_embedding_BD: the target's own identity, for the `trgID_*` inversions.

        Raises:
            ValueError: batch sizes differ, or something that `sampling` asks for was not given.
        """
        batch = len(source_embedding_BD)
        given = {
            "condition latents": condition_latents_BLC,
            "target latents": target_latents_BLC,
            "seeds": seeds,
        }
        for name, value in given.items():
            if value is not None and len(value) != batch:
                raise ValueError(f"{len(value)} {name} for {batch} source embeddings")
        model, config = self.base.model, self.base.config
        encoder = model.identity_encoder
        inputs = Inputs(
            text=model.prompts.prompt(batch),
            condition=self._to_device(condition_latents_BLC),
            identity_BTD=encoder(source_embedding_BD.to(self.device)),
            black=self._black_1LC.expand(batch, -1, -1),
            unconditional_BTD=encoder.unconditional(batch),
        )
        if self.caches_condition:
            inputs = with_cached_conditions(model, inputs, sampling)
        sigmas = shifted_sigmas(sampling.steps, config.image_tokens, shift=sampling.shift)
        if sampling.inversion is None:
            start = noise_rows(seeds, config.image_tokens, config.transformer.in_channels).to(self.device)
        else:
            if target_latents_BLC is None:
                raise ValueError(
                    "inversion needs the target's latents; give them, or set sampling.inversion to None"
                )
            own = None if target_embedding_BD is None else encoder(target_embedding_BD.to(self.device))
            seen = inversion_inputs(sampling.inversion, inputs, own)
            sigmas = partial_sigmas(sigmas, sampling.inverse_steps)
            start = invert(
                inversion_velocity(model, seen, sampling),
                cast(Tensor, self._to_device(target_latents_BLC)),
                sigmas,
                second_order=sampling.second_order,
            )
        velocity = guided_velocity(model, inputs, sampling)
        return integrate(velocity, start, sigmas, second_order=sampling.second_order_sampling).cpu()

    def _to_device(self, latents_BLC: Tensor | None) -> Tensor | None:
        return None if latents_BLC is None else latents_BLC.to(self.device, torch.float32)


def _condition_cache(base: SwapBase, execution: ExecutionConfig) -> tuple[bool, str]:
    """Decide whether conditions are encoded once per picture, and say why."""
    if execution.condition_cache == "off":
        return False, "off: it was switched off"
    if refusal := cache_refusal(base.config):
        return False, f"off: {refusal}"
    return True, "on: the condition sees itself alone (independent_condition), so it is computed once"


def verified_lora(base: SwapBase, path: Path) -> dict[str, Tensor]:
    """Return the adapters of a LoRA file or checkpoint folder, on the CPU.

    Raises LoraMismatch when the manifest beside them names another base, and as `read_lora` and
    `load_checkpoint`.
    """
    if not (path / MANIFEST_NAME).is_file():
        return read_lora(path)
    lora, manifest = load_checkpoint(path)
    if manifest.base_sha256 != base.sha256:
        raise LoraMismatch(f"{path} was trained on base {manifest.base_sha256}, this is base {base.sha256}")
    return lora
