"""The one way in which stages get a base: of our own one file, or FLUX, PuLID and the stored prompts.

`prompt_embeddings` comes before every stage that opens a base: it is the only one that loads text encoders.
What a base is called in checkpoints covers the content of all its files, by the digests that the weights'
ledger has anyway.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from assets.stage import StageConfig, StageContext
from assets.training_rows import need_artifact
from models.identity.network_sizes import IdFormerConfig
from models.swap.config import CodecConfig, Precision, SwapModelConfig
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake

if TYPE_CHECKING:  # torch loads seconds later, when a base is opened
    from models.swap.base import SwapBase
    from models.swap.codec import LatentCodec
    from models.swap.execution_config import ExecutionConfig
    from models.swap.swapper import Swapper
    from models.swap.text import StoredPrompts

PROMPTS_STAGE = "prompt_embeddings"
EXECUTION = {
    "attention": "ORCHARD_ATTENTION",
    "condition_cache": "ORCHARD_CONDITION_CACHE",
    "reader_processes": "ORCHARD_READER_PROCESSES",
}
PROMPTS_FILE = "prompts.safetensors"


class CodecSource(StageConfig):
    """Where the codec of a base comes from."""

    weights: str = Field(description="Weight role of a folder with `vae/`, or of our own one-file base.")
    codec: CodecConfig = Field(description="Its shape.")
    precision: Precision = Field(default="float32", description="Precision it runs in.")


class BaseConfig(StageConfig):
    """Which model files make a base, and what shape it must have. One role may stand for several parts."""

    transformer: str = Field(description="Weight role of a folder with `transformer/`, or our one-file base.")
    codec: str = Field(description="Weight role of the codec.")
    text: str = Field(description="Weight role of the text encoders; `prompt_embeddings` alone reads them.")
    identity: str | None = Field(
        default=None,
        description="Weight role of the identity parts: PuLID's file, or parts trained for this base. None "
        "only for our one-file base, which has them inside.",
    )
    former: IdFormerConfig = Field(default=IdFormerConfig(), description="Sizes of PuLID's encoder.")
    model: SwapModelConfig = Field(description="Shape of the whole.")
    compile: bool = Field(
        default=False,
        exclude=True,
        description="Compile the transformer's blocks by torch.compile when they are first called. No result "
        "changes beyond rounding, so it is left out wherever this is written down, fingerprints included.",
    )

    @property
    def roles(self) -> tuple[str, ...]:
        """Weight roles of a stage that opens the base, each once. The text encoders are not among them."""
        roles = (self.transformer, self.codec, self.identity)
        return tuple(dict.fromkeys(role for role in roles if role is not None))

    @property
    def codec_source(self) -> CodecSource:
        """Where the codec alone comes from."""
        return CodecSource(weights=self.codec, codec=self.model.codec, precision=self.model.base_dtype)


def one_file_base(role: str, model: SwapModelConfig) -> BaseConfig:
    """A base of our own, all parts in one file."""
    return BaseConfig(transformer=role, codec=role, text=role, model=model)


def execution_settings() -> ExecutionConfig:
    """How this process runs the base: ORCHARD_ATTENTION, ORCHARD_CONDITION_CACHE, ORCHARD_READER_PROCESSES.

    They are of the machine, not of the result: no fingerprint knows them. Raises LakeError for another value.
    """
    from models.swap.execution_config import ExecutionConfig

    values = {name: os.environ[variable] for name, variable in EXECUTION.items() if os.environ.get(variable)}
    try:
        return ExecutionConfig.model_validate(values)
    except ValidationError as error:
        told = "; ".join(f"{EXECUTION[str(item['loc'][0])]}: {item['msg']}" for item in error.errors())
        raise LakeError(told) from error


def open_swapper(context: StageContext, config: BaseConfig, checkpoint: Path) -> Swapper:
    """The base with a checkpoint's adapters, ready to swap; what was chosen automatically is reported.

    Raises as `open_base` and `Swapper.on_base` do.
    """
    from models.swap.swapper import Swapper

    base, execution = open_base(context, config), execution_settings()
    swapper = Swapper.on_base(base, checkpoint, device=context.device, execution=execution)
    for name, reason in swapper.choices.items():
        context.report(f"{name}: {reason}")
    return swapper


def open_codec(context: StageContext, source: CodecSource) -> LatentCodec:
    """Load the codec alone: no transformer, no prompts.

    Raises models.swap.mismatch.BaseMismatch if it is not the one that the config describes.
    """
    path = context.weight(source.weights)
    if path.is_dir():
        from models.swap.flux_base import load_flux_codec

        return load_flux_codec(path, source.codec, source.precision, device=context.device)
    from models.swap.one_file import load_patch_codec

    return load_patch_codec(path, device=context.device)


def open_base(context: StageContext, config: BaseConfig) -> SwapBase:
    """Assemble the base. Text encoders are neither read nor needed: the prompts are those of the lake.

    Raises:
        LakeError: the prompts were not computed yet, or their file is not the one that was registered.
        models.numerics.CompileUnavailable: the profile asks for compiling, and it does not work here.
        models.swap.mismatch.BaseMismatch: files do not fit the config; names them.
    """
    prompts, digest = read_prompt_artifact(context.lake)
    name = base_sha256(context, config, digest)
    path = context.weight(config.transformer)
    if not path.is_dir():
        from models.swap.base import load_base

        base = load_base(path, config.model, prompts=prompts, device=context.device)
        return _compiled(context, config, replace(base, sha256=name))
    if config.identity is None:
        raise LakeError(
            f"{config.transformer} has no identity attention of its own, and no weights were named for it; "
            "untrained ones would swap nobody: set `identity` of the base"
        )
    from models.swap.flux_base import load_flux_base

    base = load_flux_base(
        config.model,
        transformer=path,
        codec=context.weight(config.codec),
        identity=context.weight(config.identity),
        prompts=prompts,
        sha256=name,
        former=config.former,
        device=context.device,
    )
    return _compiled(context, config, base)


def _compiled(context: StageContext, config: BaseConfig, base: SwapBase) -> SwapBase:
    """The base, whose blocks will be compiled where the profile asks for it."""
    if config.compile:
        context.report(f"compiling: {base.model.use_compile()}")
    return base


def base_sha256(context: StageContext, config: BaseConfig, prompts: str) -> str:
    """What checkpoints call a base: one digest over every file that decides results, and the prompts'."""
    files = {role: context.weights[role].sha256 for role in config.roles}
    parts = {
        "transformer": files[config.transformer],
        "codec": files[config.codec],
        "identity": "" if config.identity is None else files[config.identity],
        "prompts": prompts,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_prompt_artifact(lake: Lake) -> tuple[StoredPrompts, str]:
    """The stored prompts of a lake, and the SHA-256 of their file. Raises LakeError if they are not whole."""
    from models.swap.checkpoint import file_sha256
    from models.swap.text import read_prompts

    artifact = need_artifact(lake, PROMPTS_STAGE)
    path = prompts_folder(lake, artifact) / PROMPTS_FILE
    wanted = artifact.metadata["sha256"]
    if not path.is_file() or file_sha256(path) != wanted:
        raise LakeError(
            f"{path} is gone or is not the file that was registered; run `orchard run {PROMPTS_STAGE} "
            "--force`"
        )
    return read_prompts(path), wanted


def prompts_folder(lake: Lake, artifact: Artifact) -> Path:
    """Folder of stored prompts on this machine."""
    assert artifact.location is not None  # they always have one
    return lake.fetch(artifact.location)
