"""A hub folder of FLUX as diffusers and transformers save it, and PuLID's file: small and random.

Used by tests of models and of stages, which get this module from the fixture `flux_files`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from models.identity.id_former import ATTENTION_PREFIX, PREFIX, IdFormer
from models.identity.network_sizes import IdFormerConfig
from models.swap import config as swap_config
from models.swap.config import CodecConfig, IdentityConfig, SwapModelConfig
from models.swap.transformer import SwapTransformer

WORDS = ("a", "photo", "of", "human", "face")
FORMER = IdFormerConfig(
    dim=16,
    depth=2,
    heads=2,
    head_dim=8,
    queries=2,
    id_tokens=2,
    id_dim=12,
    feature_dim=16,
    scales=2,
    feed_forward_ratio=2,
    output_dim=32,
)


def small_config(**transformer: Any) -> SwapModelConfig:
    """FLUX in small: 4 latent channels, 4 px to a token, 8 text tokens, PuLID's tokens, bfloat16."""
    small = swap_config.smoke()
    sizes = {"in_channels": 16, "text_tokens": 8, **transformer}
    return small.model_copy(
        update={
            "name": "small-flux",
            "transformer": small.transformer.model_copy(update=sizes),
            "identity": IdentityConfig(
                encoder="tokens",
                embedding_dim=64,
                tokens=2,
                token_dim=32,
                heads=2,
                head_dim=16,
                double_interval=1,
                single_interval=1,
            ),
            "base_dtype": "bfloat16",
            "codec": CodecConfig(kind="autoencoder_kl", patch_size=4, channels=16),
        }
    )


def small_vae() -> AutoencoderKL:
    """An autoencoder like FLUX's: 4 latent channels, one halving."""
    sizes: dict[str, Any] = {
        "latent_channels": 4,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "scaling_factor": 0.36,
        "shift_factor": 0.1,
    }
    return AutoencoderKL(**sizes).eval()


def write_hub_folder(
    folder: Path, config: SwapModelConfig, *, shard_size: str = "10GB"
) -> FluxTransformer2DModel:
    """Write every part of FLUX; returns the transformer whose weights are in the folder."""
    torch.manual_seed(0)
    flux = FluxTransformer2DModel(**config.transformer.model_dump(exclude={"text_tokens"}))
    _half(flux).save_pretrained(folder / "transformer", max_shard_size=shard_size)
    _half(small_vae()).save_pretrained(folder / "vae")
    write_text_encoders(folder, config)
    return flux.eval()


def write_text_encoders(folder: Path, config: SwapModelConfig) -> None:
    """CLIP and T5 of the config's widths, with tokenizers that know the words of APPLE's prompt."""
    letters = sorted(set("".join(WORDS)))
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    clip_tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[],
        bos_token="<|startoftext|>",
        model_max_length=77,
    )
    clip_tokenizer.save_pretrained(folder / "tokenizer")
    sizes: dict[str, Any] = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    clip = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=config.transformer.pooled_projection_dim,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=len(vocabulary) - 1,
        **sizes,
    )
    _half(CLIPTextModel(clip)).save_pretrained(folder / "text_encoder")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -3.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS] + [(letter, -5.0) for letter in letters]
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512).save_pretrained(folder / "tokenizer_2")
    t5 = T5Config(
        vocab_size=len(pieces),
        d_model=config.transformer.joint_attention_dim,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    _half(T5EncoderModel(t5)).save_pretrained(folder / "text_encoder_2")


def _half(module: Any) -> Any:
    """In bfloat16; the libraries' own annotations of `to` are too narrow."""
    return module.to(torch.bfloat16)


def pipeline_of(**parts: Any) -> FluxPipeline:
    """diffusers' pipeline of the given parts alone."""
    names = ("scheduler", "vae", "transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    given: dict[str, Any] = {name: parts.get(name) for name in names}
    return FluxPipeline(**given)


@torch.no_grad()
def diffusers_prompts(
    folder: Path, prompts: list[str], tokens: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """What diffusers' pipeline says of prompts: T5's tokens and CLIP's pooled vectors."""
    pipeline = pipeline_of(
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=dtype),
        tokenizer_2=T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
    )
    encoded: Any = pipeline.encode_prompt(prompts, device=torch.device("cpu"), max_sequence_length=tokens)
    return encoded[0], encoded[1]


def pulid_tensors(config: SwapModelConfig) -> dict[str, torch.Tensor]:
    """PuLID's tensors for a config, random: the encoder and the cross-attentions."""
    torch.manual_seed(1)
    model, former = SwapTransformer(config), IdFormer(FORMER)
    attention = {
        name: torch.randn_like(value) * 0.2 for name, value in model.identity_attention.state_dict().items()
    }
    return {f"{PREFIX}{name}": value.clone() for name, value in former.state_dict().items()} | {
        f"{ATTENTION_PREFIX}{name}": value for name, value in attention.items()
    }


def write_pulid(path: Path, config: SwapModelConfig) -> dict[str, torch.Tensor]:
    """Write PuLID's file; returns its tensors."""
    tensors = pulid_tensors(config)
    save_file(tensors, path)
    return tensors


def rewrite_json(path: Path, **values: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
