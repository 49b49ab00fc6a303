"""Prompts are encoded as diffusers' pipeline encodes them, stored, and read back without text encoders."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, T5EncoderModel

from models.swap.constants import EMPTY_PROMPT, PROMPT
from models.swap.text import PromptsDamaged, StoredPrompts, prompts_to_bytes, read_prompts
from models.swap.text_encoding import TextEncoderMismatch, encode_prompts

PROMPTS = [EMPTY_PROMPT, PROMPT]


@pytest.fixture(scope="module")
def folder(flux_files: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("flux")
    flux_files.write_text_encoders(folder, flux_files.small_config())
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_those_of_diffusers(folder: Path, flux_files: ModuleType, dtype: torch.dtype) -> None:
    expected_tokens, expected_pooled = flux_files.diffusers_prompts(folder, PROMPTS, 24, dtype)
    tokens, pooled = encode_prompts(folder, PROMPTS, text_tokens=24, dtype=dtype)
    assert tokens.shape == (2, 24, 16)
    assert pooled.shape == (2, 16)
    assert tokens.dtype == pooled.dtype == dtype
    assert torch.equal(tokens, expected_tokens)
    assert torch.equal(pooled, expected_pooled)
    assert not torch.allclose(tokens[0], tokens[1])
    assert not torch.allclose(pooled[0], pooled[1])


def test_the_first_encoder_is_freed_before_the_second_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    for kind in (CLIPTextModel, T5EncoderModel):
        load = kind.from_pretrained

        def watched(*arguments: Any, kind: Any = kind, load: Any = load, **options: Any) -> Any:
            events.append(f"load {kind.__name__}")
            encoder, told = load(*arguments, **options)
            weakref.finalize(encoder, events.append, f"free {kind.__name__}")
            return encoder, told

        monkeypatch.setattr(kind, "from_pretrained", watched)
    encode_prompts(folder, PROMPTS, text_tokens=8, dtype=torch.bfloat16)
    assert events == [
        "load CLIPTextModel",
        "free CLIPTextModel",
        "load T5EncoderModel",
        "free T5EncoderModel",
    ]


def test_what_transformers_would_leave_random_is_an_error(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "flux"
    shutil.copytree(folder, broken)
    path = broken / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TextEncoderMismatch, match=r"text_encoder_2 does not fit .* 1 tensors .*wo\.weight"):
        encode_prompts(broken, PROMPTS, text_tokens=8, dtype=torch.float32)
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(TextEncoderMismatch, match="no folder tokenizer"):
        encode_prompts(broken, PROMPTS, text_tokens=8, dtype=torch.float32)
    with pytest.raises(ValueError, match="6 tokens, the encoder takes 5"):
        encode_prompts(folder, PROMPTS, text_tokens=5, dtype=torch.float32)


def test_stored_prompts_come_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(3)
    prompts = StoredPrompts(torch.randn(2, 4, 8).bfloat16(), torch.randn(2, 8), torch.randn(2, 32))
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(prompts_to_bytes(prompts))
    assert prompts_to_bytes(prompts) == path.read_bytes()
    read = read_prompts(path)
    assert read.unconditional_TD is not None
    assert torch.equal(read.tokens_2TD, prompts.tokens_2TD)
    assert torch.equal(read.pooled_2D, prompts.pooled_2D)
    path.write_bytes(prompts_to_bytes(StoredPrompts(prompts.tokens_2TD, prompts.pooled_2D)))
    assert read_prompts(path).unconditional_TD is None
    save_file({"prompt_tokens": torch.zeros(1)}, path)
    with pytest.raises(PromptsDamaged, match=r"holds \['prompt_tokens'\]"):
        read_prompts(path)
    path.write_bytes(b"half")
    with pytest.raises(PromptsDamaged, match="cannot be read"):
        read_prompts(path)
