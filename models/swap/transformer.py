"""The swap transformer: diffusers' FLUX, unmodified, with a condition branch and identity attention."""

from __future__ import annotations

import re
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

from models.numerics import require_compiler
from models.swap import constants
from models.swap.attention import AttentionBackend, AttentionChoice, RequestedAttention, choose_attention
from models.swap.condition_branch import (
    Branch,
    Condition,
    JointAttention,
    Rotary,
    branch_linear,
    condition_position_ids,
    double_block,
    image_position_ids,
    single_block,
    single_block_view,
    square_side,
)
from models.swap.condition_cache import CacheUnavailable, ConditionCache, cache_refusal, encode_blocks
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
        self.attention: AttentionBackend = "sdpa"
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

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
            # On the meta device there is nothing to fill.
            if ".lora_A." in name and not parameter.is_meta:
                start = torch.randn(parameter.shape, generator=generator) / config.rank
                parameter.data.copy_(start)

    @property
    def has_lora(self) -> bool:
        """Whether adapters were added."""
        return bool(self.lora_parameters())

    def lora_parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapters' parameters by their name inside `flux`."""
        return {name: value for name, value in self.flux.named_parameters() if ".lora_" in name}

    def use_attention(self, requested: RequestedAttention) -> AttentionChoice:
        """Choose the attention kernel for the device and dtype the weights have now.

        Raises AttentionUnavailable when a kernel was named that does not run there.
        """
        weight = self.flux.proj_out.weight
        widths = (self.config.transformer.attention_head_dim, self.config.identity.head_dim)
        choice = choose_attention(requested, weight.device, weight.dtype, widths)
        self.attention = choice.backend
        return choice

    def use_compile(self, backend: str = "inductor") -> str:
        """Compile the blocks when they are first called, and return what was done as a sentence.

        The blocks alone: all of a kind share one graph, so a whole FLUX costs a handful of small compilations
        instead of one of 57 blocks, and adapters may be exchanged between calls.

        Raises CompileUnavailable where there is no compiler for the device that the weights are on.
        """
        if backend == "inductor":
            require_compiler(self.flux.proj_out.weight.device.type)
        for function in (double_block, single_block, single_block_view):
            self._compiled[function] = torch.compile(function, backend=backend)
        blocks = len(self.flux.transformer_blocks) + len(self.flux.single_transformer_blocks)
        return f"the {blocks} transformer blocks, as the profile asks: one graph for all of a kind"

    def forward(
        self,
        latents_BLC: Tensor,
        timestep_B: Tensor,
        text: TextEmbedding,
        *,
        condition_BLC: Tensor | None = None,
        condition_cache: ConditionCache | None = None,
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
            condition_cache: what `encode_condition` made of the same batch, instead of `condition_BLC`.
            identity_BTD: identity tokens from `identity_encoder`; None removes the identity attention.
            guidance: the distilled guidance scalar of text and image; the condition's is always 1.
            image_ids_L3: positions of the image tokens; None is a square grid.
            condition_ids_L3: positions of the condition tokens before `config.condition` moves them.

        Raises:
            ValueError: both a condition and a cache, a cache of another batch size, or a grid that is not
                square and has no ids.
        """
        flux = self.flux
        device, outer_dtype = latents_BLC.device, latents_BLC.dtype
        latents_BLC = latents_BLC.to(self._dtype)
        text = self._in_dtype(text)
        identity_BTD = None if identity_BTD is None else identity_BTD.to(self._dtype)
        image_ids = self._ids(image_ids_L3, latents_BLC)
        text_ids = torch.zeros(text.tokens_BTD.shape[1], 3, device=device)
        main_modulation = self._modulation(timestep_B, guidance, text.pooled_BD)
        words = Branch(flux.context_embedder(text.tokens_BTD), main_modulation, adapted=False)
        embedded = branch_linear(flux.x_embedder, latents_BLC, adapted=False)
        image = Branch(embedded, main_modulation, adapted=False)
        main_ids = torch.cat([text_ids, image_ids])
        condition, condition_ids = None, main_ids[:0]
        if condition_cache is not None:
            self._check_cache(condition_cache, condition_BLC, len(latents_BLC))
        elif condition_BLC is not None:
            condition, condition_ids = self._condition(condition_BLC, text, condition_ids_L3)
        main_rotary, condition_rotary = self._rotary(main_ids, condition_ids)
        joint = JointAttention(
            main_rotary,
            condition_rotary,
            self.config.condition.independent_condition,
            self.attention,
        )
        hidden_BLD = self._blocks(words, image, condition or condition_cache, joint, identity_BTD)
        return flux.proj_out(flux.norm_out(hidden_BLD, main_modulation)).to(outer_dtype)

    def encode_condition(
        self, condition_BLC: Tensor, text: TextEmbedding, *, condition_ids_L3: Tensor | None = None
    ) -> ConditionCache:
        """Return what the condition shows in every block, to be given to `forward` at any noise level.

        Raises CacheUnavailable unless the condition sees itself alone (`independent_condition`).
        """
        if refusal := cache_refusal(self.config):
            raise CacheUnavailable(
                f"the condition cannot be cached: {refusal}. Pass condition_BLC to every forward pass."
            )
        condition, ids_L3 = self._condition(condition_BLC, self._in_dtype(text), condition_ids_L3)
        (rotary,) = self._rotary(ids_L3)
        return encode_blocks(self.flux, condition, rotary, self.attention)

    def _condition(
        self, condition_BLC: Tensor, text: TextEmbedding, ids_L3: Tensor | None
    ) -> tuple[Branch, Tensor]:
        """Embed the condition and place it: the branch, and its (L, 3) position ids."""
        still = torch.full(
            (len(condition_BLC),),
            constants.CONDITION_TIMESTEP,
            device=condition_BLC.device,
            dtype=self._dtype,
        )
        modulation = self._modulation(still, constants.CONDITION_GUIDANCE, text.pooled_BD)
        embedded = branch_linear(self.flux.x_embedder, condition_BLC.to(self._dtype), adapted=True)
        ids = condition_position_ids(self._ids(ids_L3, condition_BLC), self.config.condition)
        return Branch(embedded, modulation, adapted=True), ids

    def _blocks(
        self,
        text: Branch,
        image: Branch,
        condition: Branch | ConditionCache | None,
        joint: JointAttention,
        identity_BTD: Tensor | None,
    ) -> Tensor:
        """Run all blocks and return the image tokens (B, L, D)."""
        cache = condition if isinstance(condition, ConditionCache) else None
        running: Condition = condition if isinstance(condition, Branch) else None
        attention = iter(self.identity_attention)
        for index, block in enumerate(self.flux.transformer_blocks):
            block = cast(FluxTransformerBlock, block)
            shown = running if cache is None else cache.double[index]
            text, image, shown = self._run(double_block, block, text, image, shown, joint)
            running = shown if cache is None else None
            if identity_BTD is not None and index % self.config.identity.double_interval == 0:
                update = next(attention)(identity_BTD, image.hidden_BLD, joint.backend)
                image = Branch(image.hidden_BLD + update, image.modulation_BD, image.adapted)
        words = text.hidden_BLD.shape[1]
        # FLUX's single blocks see text and image as one sequence with one modulation.
        main = Branch(
            torch.cat([text.hidden_BLD, image.hidden_BLD], dim=1), image.modulation_BD, adapted=False
        )
        last = len(self.flux.single_transformer_blocks) - 1
        for index, block in enumerate(self.flux.single_transformer_blocks):
            block = cast(FluxSingleTransformerBlock, block)
            shown = running if cache is None else cache.single[index]
            if index == last and isinstance(shown, Branch):
                # What the last block would make of the condition goes nowhere.
                shown = self._run(single_block_view, block, shown, joint.condition_rotary)
            main, shown = self._run(single_block, block, main, shown, joint)
            running = shown if cache is None else None
            if identity_BTD is not None and index % self.config.identity.single_interval == 0:
                written, painted = main.hidden_BLD[:, :words], main.hidden_BLD[:, words:]
                painted = painted + next(attention)(identity_BTD, painted, joint.backend)
                main = Branch(torch.cat([written, painted], dim=1), main.modulation_BD, main.adapted)
        return main.hidden_BLD[:, words:]

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        function = self._compiled.get(function, function)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def _modulation(self, timestep_B: Tensor, guidance: float, pooled: Tensor) -> Tensor:
        timestep = timestep_B.to(pooled.dtype) * 1000
        if not self.config.transformer.guidance_embeds:
            return self.flux.time_text_embed(timestep, pooled)
        return self.flux.time_text_embed(timestep, torch.full_like(timestep, guidance * 1000), pooled)

    @property
    def _dtype(self) -> torch.dtype:
        return self.flux.proj_out.weight.dtype

    def _in_dtype(self, text: TextEmbedding) -> TextEmbedding:
        return TextEmbedding(text.tokens_BTD.to(self._dtype), text.pooled_BD.to(self._dtype))

    def _rotary(self, *ids_L3: Tensor) -> list[Rotary]:
        """Return the tables of several rows of tokens, computed together."""
        lengths = [len(ids) for ids in ids_L3]
        cosines, sines = cast(Rotary, self.flux.pos_embed(torch.cat(ids_L3)))
        return list(zip(cosines.split(lengths), sines.split(lengths), strict=True))

    @staticmethod
    def _ids(ids_L3: Tensor | None, tokens_BLC: Tensor) -> Tensor:
        if ids_L3 is not None:
            return ids_L3
        side = square_side(tokens_BLC.shape[1])
        return image_position_ids(side, side, tokens_BLC.device)

    @staticmethod
    def _check_cache(cache: ConditionCache, condition_BLC: Tensor | None, batch: int) -> None:
        if condition_BLC is not None:
            raise ValueError("give either condition latents or what was cached of them, not both")
        if cache.batch != batch:
            raise ValueError(f"the condition cache holds {cache.batch} rows, the latents {batch}")


def adapters_without_gradient(config: SwapModelConfig) -> set[str]:
    """Return the adapted modules of `flux` that a training step never reaches, by name.

    The last single block's query, hidden and output maps only feed the condition's own output, which nothing
    reads after that block (the condition's keys, values and modulation there are still seen by the image).
    Their adapters are in the published files all the same; no gradient ever moves them. Every other adapter
    gets a gradient in every step that has a condition. (At the very first step that of every `lora_A` is
    zero, because `lora_B` starts at zero.)
    """
    last = f"single_transformer_blocks.{config.transformer.num_single_layers - 1}"
    names = {f"{last}.{part}" for part in ("attn.to_q", "proj_mlp", "proj_out")}
    return {name for name in names if re.fullmatch(config.lora.targets, name)}
