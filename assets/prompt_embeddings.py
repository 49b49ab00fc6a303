"""`prompt_embeddings`: what the text encoders say of the two prompts, and the identity tokens of "nobody".

APPLE trains and swaps with one prompt, and the empty one where text is dropped out. The text encoders (T5-XXL
has 9.5 GB) are loaded here and nowhere else; what reads this artifact needs neither them nor their files. A
base of our own knows no language: its two stored embeddings are taken over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from assets.stage import ArtifactStage, StageConfig, StageContext
from assets.swap_base import PROMPTS_FILE, PROMPTS_STAGE, BaseConfig
from models.identity.network_sizes import EvaClipConfig, IdFormerConfig
from models.swap.config import Precision
from models.swap.constants import EMPTY_PROMPT, PROMPT
from resources.lake.failpoints import crash_point
from resources.lake.lake import Artifact
from resources.lake.schema import DIGEST_BYTES

if TYPE_CHECKING:  # torch loads seconds later, when prompts are encoded
    from models.swap.text import StoredPrompts

CODE_VERSION = "1"
FOLDER = "checkpoints"
"""Where the lake keeps folders of tensors with a manifest; housekeeping and checks look there."""

MANIFEST = "manifest.json"
DIGEST_CHARACTERS = 16


class PromptEmbeddingsConfig(StageConfig):
    """What is encoded, and by which networks."""

    text: str = Field(description="Weight role of the text encoders, or of our own one-file base.")
    pulid: str | None = Field(
        description="Weight role of PuLID's file, whose encoder says what no identity looks like."
    )
    prompt: str = Field(default=PROMPT, description="The one prompt of training and swapping.")
    empty_prompt: str = Field(default=EMPTY_PROMPT, description="What stands for it where text is dropped.")
    text_tokens: int = Field(gt=0, description="T5 tokens, padding included.")
    precision: Precision = Field(description="Precision of the text encoders.")
    former: IdFormerConfig = Field(default=IdFormerConfig(), description="Sizes of PuLID's encoder.")
    image_tokens: int = Field(
        default=EvaClipConfig().tokens, gt=0, description="Tokens of a picture that PuLID's encoder reads."
    )


def prompt_embeddings_config(base: BaseConfig) -> PromptEmbeddingsConfig:
    """What the stage needs to know of a base."""
    ready_tokens = base.model.identity.encoder == "tokens"
    return PromptEmbeddingsConfig(
        text=base.text,
        pulid=base.identity if ready_tokens else None,
        text_tokens=base.model.transformer.text_tokens,
        precision=base.model.base_dtype,
        former=base.former,
    )


def prompt_embeddings_stage(config: PromptEmbeddingsConfig) -> ArtifactStage:
    """The stage `prompt_embeddings`; it depends on model files alone."""

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config)

    return ArtifactStage(
        name=PROMPTS_STAGE,
        code_version=CODE_VERSION,
        description="Text embeddings of the prompt and of the empty prompt, and identity tokens of nobody.",
        config=config,
        inputs=(),
        weights=tuple(role for role in (config.text, config.pulid) if role is not None),
        build=build,
    )


def _build(context: StageContext, fingerprint: bytes, config: PromptEmbeddingsConfig) -> Artifact:
    from models.swap.text import prompts_to_bytes

    path = context.weight(config.text)
    prompts = _encoded(context, config, path) if path.is_dir() else _stored(path)
    content = prompts_to_bytes(prompts)
    sha256 = hashlib.sha256(content).hexdigest()
    shapes = {"prompt_tokens": prompts.tokens_2TD, "prompt_pooled": prompts.pooled_2D}
    if prompts.unconditional_TD is not None:
        shapes["unconditional_tokens"] = prompts.unconditional_TD
    described = {name: [str(value.dtype), *value.shape] for name, value in shapes.items()}
    manifest = {
        "prompts": [config.empty_prompt, config.prompt] if path.is_dir() else "those of the base",
        "tensors": described,
        "weights_sha256": sha256,
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    folder = _write(context.lake.folder(FOLDER) / digest[:DIGEST_CHARACTERS], content, manifest)
    crash_point("mid_checkpoint")
    return Artifact(
        stage=PROMPTS_STAGE,
        fingerprint=fingerprint,
        digest=bytes.fromhex(digest)[:DIGEST_BYTES],
        code_version=CODE_VERSION,
        location=context.lake.publish(folder),
        metadata={"sha256": sha256, "bytes": len(content), "model_id": folder.name},
    )


def _encoded(context: StageContext, config: PromptEmbeddingsConfig, folder: Path) -> StoredPrompts:
    """Ask the text encoders, then PuLID's encoder: it sees zeros where a face would be."""
    import torch

    from models.identity.id_former import load_id_former
    from models.swap.text import StoredPrompts
    from models.swap.text_encoding import encode_prompts

    context.report(f"{PROMPTS_STAGE}: encoding two prompts with {folder}")
    tokens, pooled = encode_prompts(
        folder,
        [config.empty_prompt, config.prompt],
        text_tokens=config.text_tokens,
        dtype=getattr(torch, config.precision),
        device=context.device,
    )
    if config.pulid is None:
        return StoredPrompts(tokens, pooled)
    # In float32, as the tokens of the photographs are computed.
    former = load_id_former(context.weight(config.pulid), config.former).to(context.device)
    with torch.no_grad():
        nobody = former.unconditional(config.image_tokens)[0].cpu()
    return StoredPrompts(tokens, pooled, nobody)


def _stored(path: Path) -> StoredPrompts:
    from models.swap.one_file import stored_prompts

    return stored_prompts(path)


def _write(target: Path, content: bytes, manifest: dict[str, object]) -> Path:
    """Write the folder all or nothing; the same content is left as it is, a damaged one is replaced."""
    from models.swap.checkpoint import atomic_folder

    path = target / PROMPTS_FILE
    if not path.is_file() or path.read_bytes() != content:
        shutil.rmtree(target, ignore_errors=True)
        with atomic_folder(target) as folder:
            (folder / PROMPTS_FILE).write_bytes(content)
            text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
            (folder / MANIFEST).write_text(text, encoding="utf-8")
            crash_point("mid_checkpoint")
    return target
