"""FLUX's two text encoders, once: a pooled vector from CLIP, and tokens from T5.

The only place that loads them. They are loaded one after the other and freed, and what they say is stored
(`models.swap.text.StoredPrompts`); training and swapping read that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLIP, CLIP_TOKENIZER = "text_encoder", "tokenizer"
T5, T5_TOKENIZER = "text_encoder_2", "tokenizer_2"


class TextEncoderMismatch(ValueError):
    """A text encoder's folder is absent or does not fit its config; the message names it."""


@torch.no_grad()
def encode_prompts(
    folder: Path, prompts: Sequence[str], *, text_tokens: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Encode prompts as `FluxPipeline.encode_prompt` of diffusers does.

    Args:
        folder: a FLUX folder with `text_encoder`, `tokenizer` (CLIP-L) and `text_encoder_2`, `tokenizer_2`
            (T5-XXL).
        prompts: N texts; longer ones than the encoders take are an error, not cut.
        text_tokens: T, tokens the T5 rows are padded to. Padding is attended to, as FLUX was trained.
        dtype: precision of the encoders and of what they return.
        device: where the encoders run.

    Returns:
        Tokens (N, T, joint_attention_dim) and pooled vectors (N, pooled_dim), on the CPU.

    Raises:
        TextEncoderMismatch: a folder is absent, or weights are missing from it.
        ValueError: a prompt is too long.
    """
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    for name in (CLIP, CLIP_TOKENIZER, T5, T5_TOKENIZER):
        if not (folder / name).is_dir():
            raise TextEncoderMismatch(f"{folder} has no folder {name}: the prompts cannot be encoded")
    tokenizer: Any = CLIPTokenizer.from_pretrained(folder / CLIP_TOKENIZER, local_files_only=True)
    ids = _token_ids(tokenizer, prompts, tokenizer.model_max_length)
    encoder = _load(CLIPTextModel, folder / CLIP, dtype, device)
    pooled = encoder(ids.to(device), output_hidden_states=False).pooler_output.to("cpu", dtype)
    del encoder
    _free()
    tokenizer = T5Tokenizer.from_pretrained(folder / T5_TOKENIZER, local_files_only=True)
    ids = _token_ids(tokenizer, prompts, text_tokens)
    encoder = _load(T5EncoderModel, folder / T5, dtype, device)
    tokens = encoder(ids.to(device), output_hidden_states=False)[0].to("cpu", dtype)
    del encoder
    _free()
    return tokens, pooled


def _load(kind: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """Load an encoder; what transformers only warns about (weights left random) is an error."""
    try:
        encoder, told = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise TextEncoderMismatch(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    # A mismatched key comes with its shapes.
    names = [item if isinstance(item, str) else item[0] for item in told["mismatched_keys"]]
    if lacking := sorted({*told["missing_keys"], *names}):
        raise TextEncoderMismatch(
            f"{folder} does not fit its config: {len(lacking)} tensors are missing or of another shape, "
            f"such as {', '.join(lacking[:3])}"
        )
    return encoder.to(device).eval()


def _token_ids(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
    whole = tokenizer(list(prompts), padding="longest", return_tensors="pt").input_ids
    if whole.shape[1] > length:
        raise ValueError(f"a prompt has {whole.shape[1]} tokens, the encoder takes {length}: {prompts}")
    return tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def _free() -> None:
    """Give the memory of an encoder that nobody refers to any more back, before the next one is loaded."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
