"""Checkpoint folders: one safetensors file and a manifest, named by their content, written all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field
from torch import Tensor

from models.swap.config import FrozenConfig, SwapModelConfig
from models.swap.lora_files import FILE_NAME, read_lora, save_lora
from models.swap.training_recipe import TrainingRecipe

MANIFEST_NAME = "manifest.json"
DIGEST_CHARACTERS = 16
TEMPORARY_PREFIX = ".unfinished-"


class CheckpointDamaged(ValueError):
    """A checkpoint folder is incomplete or its content does not match its manifest."""


class CheckpointManifest(FrozenConfig):
    """What a checkpoint is and what it was made from."""

    config: SwapModelConfig = Field(description="The model the adapters belong to.")
    recipe: TrainingRecipe = Field(description="How they were trained.")
    base_sha256: str = Field(description="SHA-256 of the base weights under the adapters.")
    parents: tuple[str, ...] = Field(
        default=(), description="Digests of the data and checkpoints it came from."
    )
    weights_sha256: str = Field(default="", description="SHA-256 of the safetensors file; filled when saved.")

    @property
    def digest(self) -> str:
        """Content digest of the whole checkpoint: config, recipe, base, parents and weights."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def save_checkpoint(root: Path, lora: Mapping[str, Tensor], manifest: CheckpointManifest) -> Path:
    """Write a checkpoint under `root` in a folder named by its digest; return the folder.

    The same content gives the same folder, which is then left as it is.
    """
    with _temporary_folder(root) as folder:
        save_lora(lora, folder / FILE_NAME)
        complete = manifest.model_copy(update={"weights_sha256": file_sha256(folder / FILE_NAME)})
        text = json.dumps(complete.model_dump(mode="json"), indent=2, sort_keys=True)
        (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        target = root / complete.digest[:DIGEST_CHARACTERS]
        if not target.exists():
            publish_folder(folder, target)
    return target


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], CheckpointManifest]:
    """Read a checkpoint and verify it; CheckpointDamaged tells what does not match."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise CheckpointDamaged(f"{folder} has no {MANIFEST_NAME}; it is no checkpoint")
    manifest = CheckpointManifest.model_validate_json(path.read_text(encoding="utf-8"))
    actual = file_sha256(folder / FILE_NAME)
    if actual != manifest.weights_sha256:
        raise CheckpointDamaged(
            f"{folder / FILE_NAME} has sha256 {actual}, its manifest says {manifest.weights_sha256}; "
            "train it again"
        )
    return read_lora(folder), manifest


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving without an exception it becomes `target`, durably.

    Raises FileExistsError at the end if `target` is there already.
    """
    with _temporary_folder(target.parent) as folder:
        yield folder
        publish_folder(folder, target)


def publish_folder(folder: Path, target: Path) -> None:
    """Flush every file of a flat folder to disk, then rename the folder to `target`."""
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)
    folder.rename(target)
    _flush(target.parent)


def remove_unfinished(root: Path) -> None:
    """Remove temporary folders a killed writer left behind under `root`; only its owner may call this."""
    for path in root.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
