"""The swap transformer: diffusers' FLUX, unmodified, with a condition branch and identity attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import peft
import torch
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformer2DModel,
    FluxTransformerBlock,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.swap import constants
from models.swap.condition_branch import (
    Branch,
    BranchName,
    JointAttention,
    attention_mask,
    attention_rule,
    branch_linear,
    condition_position_ids,
    double_block,
    image_position_ids,
    single_block,
    square_side,
)
from models.swap.config import LoraConfig, SwapModelConfig
from models.swap.identity_attention import IdentityEncoder, identity_attention_layers
from models.swap.text import PromptEmbeddings, TextEmbedding

ADAPTER = "default"


class SwapTransformer(nn.Module):
    """Predict velocities of image tokens from text, a condition image and an identity.

    Parts: `flux` (the stock transformer, its weights and key names untouched), `identity_encoder`,
    `identity_attention`, `prompts`. Built with random weights; `models.swap.base` loads trained ones.
    """

    def __init__(self, config: SwapModelConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.transformer
        self.flux = FluxTransformer2DModel(**sizes.model_dump(exclude={"text_tokens"}))
        self.identity_encoder = IdentityEncoder(config.identity)
        self.identity_attention = identity_attention_layers(
            sizes.inner_dim, sizes.num_layers, sizes.num_single_layers, config.identity
        )
        self.prompts = PromptEmbeddings(sizes)
        self.gradient_checkpointing = False

    def add_lora(self, config: LoraConfig, *, seed: int) -> None:
        """Put fresh adapters on the target modules: A Gaussian with deviation 1/rank, B zero, seeded.

        Raises ValueError when adapters are there already.
        """
        if self.has_lora:
            raise ValueError("this transformer has LoRA adapters already")
        adapters = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=config.targets,
            init_lora_weights="gaussian",
        )
        self.flux.add_adapter(adapters, adapter_name=ADAPTER)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.lora_parameters().items():
            # Adapters stay float32 under a half-precision base: small updates vanish in bfloat16.
            parameter.data = parameter.data.float()
            if ".lora_A." in name:
                start = torch.randn(parameter.shape, generator=generator) / config.rank
                parameter.data.copy_(start)

    @property
    def has_lora(self) -> bool:
        """Whether adapters were added."""
        return bool(self.lora_parameters())

    def lora_parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapters' parameters by their name inside `flux`."""
        return {name: value for name, value in self.flux.named_parameters() if ".lora_" in name}

    def forward(
        self,
        latents_BLC: Tensor,
        timestep_B: Tensor,
        text: TextEmbedding,
        *,
        condition_BLC: Tensor | None = None,
        identity_BTD: Tensor | None = None,
        guidance: float = constants.TRAINING_GUIDANCE,
        image_ids_L3: Tensor | None = None,
        condition_ids_L3: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity (noise minus image), (B, L, C), in the latents' dtype.

        Args:
            latents_BLC: noisy packed latents.
            timestep_B: noise level of each row, 0 (image) to 1 (noise).
            text: prompt embeddings of each row.
            condition_BLC: packed latents of the condition image; None removes the branch.
            identity_BTD: identity tokens from `identity_encoder`; None removes the identity attention.
            guidance: the distilled guidance scalar of text and image; the condition's is always 1.
            image_ids_L3: positions of the image tokens; None is a square grid.
            condition_ids_L3: positions of the condition tokens before `config.condition` moves them.
        """
        flux = self.flux
        device, outer_dtype = latents_BLC.device, latents_BLC.dtype
        dtype = flux.proj_out.weight.dtype
        latents_BLC = latents_BLC.to(dtype)
        text = TextEmbedding(text.tokens_BTD.to(dtype), text.pooled_BD.to(dtype))
        identity_BTD = None if identity_BTD is None else identity_BTD.to(dtype)
        image_ids = self._ids(image_ids_L3, latents_BLC)
        text_ids = torch.zeros(text.tokens_BTD.shape[1], 3, device=device)
        main_modulation = self._modulation(timestep_B, guidance, text.pooled_BD)
        words = Branch(flux.context_embedder(text.tokens_BTD), main_modulation, adapted=False)
        embedded = branch_linear(flux.x_embedder, latents_BLC, adapted=False)
        image = Branch(embedded, main_modulation, adapted=False)
        lengths: dict[BranchName, int] = {"text": text.tokens_BTD.shape[1], "image": latents_BLC.shape[1]}
        ids = [text_ids, image_ids]
        condition = None
        if condition_BLC is not None:
            still = torch.full_like(timestep_B, constants.CONDITION_TIMESTEP)
            modulation = self._modulation(still, constants.CONDITION_GUIDANCE, text.pooled_BD)
            embedded = branch_linear(flux.x_embedder, condition_BLC.to(dtype), adapted=True)
            condition = Branch(embedded, modulation, adapted=True)
            lengths["condition"] = condition_BLC.shape[1]
            ids.append(
                condition_position_ids(self._ids(condition_ids_L3, condition_BLC), self.config.condition)
            )
        joint = JointAttention(
            cast(tuple[Tensor, Tensor], flux.pos_embed(torch.cat(ids))),
            attention_mask(lengths, attention_rule(self.config.condition), device),
        )
        hidden_BLD = self._blocks(words, image, condition, joint, identity_BTD)
        return flux.proj_out(flux.norm_out(hidden_BLD, main_modulation)).to(outer_dtype)

    def _blocks(
        self,
        text: Branch,
        image: Branch,
        condition: Branch | None,
        joint: JointAttention,
        identity_BTD: Tensor | None,
    ) -> Tensor:
        """Run all blocks and return the image tokens (B, L, D)."""
        attention = iter(self.identity_attention)
        for index, block in enumerate(self.flux.transformer_blocks):
            block = cast(FluxTransformerBlock, block)
            text, image, condition = self._run(double_block, block, text, image, condition, joint)
            if identity_BTD is not None and index % self.config.identity.double_interval == 0:
                update = next(attention)(identity_BTD, image.hidden_BLD)
                image = Branch(image.hidden_BLD + update, image.modulation_BD, image.adapted)
        words = text.hidden_BLD.shape[1]
        # FLUX's single blocks see text and image as one sequence with one modulation.
        main = Branch(
            torch.cat([text.hidden_BLD, image.hidden_BLD], dim=1), image.modulation_BD, adapted=False
        )
        for index, block in enumerate(self.flux.single_transformer_blocks):
            block = cast(FluxSingleTransformerBlock, block)
            main, condition = self._run(single_block, block, main, condition, joint)
            if identity_BTD is not None and index % self.config.identity.single_interval == 0:
                written, painted = main.hidden_BLD[:, :words], main.hidden_BLD[:, words:]
                painted = painted + next(attention)(identity_BTD, painted)
                main = Branch(torch.cat([written, painted], dim=1), main.modulation_BD, main.adapted)
        return main.hidden_BLD[:, words:]

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def _modulation(self, timestep_B: Tensor, guidance: float, pooled: Tensor) -> Tensor:
        timestep = timestep_B.to(pooled.dtype) * 1000
        if not self.config.transformer.guidance_embeds:
            return self.flux.time_text_embed(timestep, pooled)
        return self.flux.time_text_embed(timestep, torch.full_like(timestep, guidance * 1000), pooled)

    @staticmethod
    def _ids(ids_L3: Tensor | None, tokens_BLC: Tensor) -> Tensor:
        if ids_L3 is not None:
            return ids_L3
        side = square_side(tokens_BLC.shape[1])
        return image_position_ids(side, side, tokens_BLC.device)
