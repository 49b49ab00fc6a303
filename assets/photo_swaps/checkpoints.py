"""Which base and which adapters swap: the lake's current checkpoint, or a folder given by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from assets.condition import ConditionStageConfig
from assets.photo_swaps.settings import SwapSettings
from assets.recipe_view import DEFAULT_VIEW, RecipeView
from assets.stage import RowStage, StageContext, StageGraph
from assets.swap_base import BaseConfig, open_swapper
from assets.swaps import SwapsConfig
from assets.training import checkpoint_folder
from assets.training_rows import need_artifact
from resources.compute.device import choose_device
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.weights.entries import HubFolderWeight
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import ResolvedWeight, resolve, sha256

if TYPE_CHECKING:
    from models.swap.swapper import Swapper

MODEL_ID_CHARACTERS = 16


@dataclass(frozen=True)
class LoadedSwapper:
    """A swapper and how its checkpoint is called in marks."""

    swapper: Swapper
    model_id: str


def swaps_config(graph: StageGraph, view: RecipeView = DEFAULT_VIEW) -> SwapsConfig:
    """Base and sampling of a recipe's stage `swaps`. Raises LakeError when the profile has none."""
    name = view.own("swaps")
    config = graph[name].config if name in graph.names else None
    if not isinstance(config, SwapsConfig):
        raise LakeError("this profile has no swaps stage")
    return config


def base_weights(graph: StageGraph, model_id: str | None) -> tuple[BaseConfig, dict[str, ResolvedWeight]]:
    """The base and its model files: the profile's, or with the file or folder that `model_id` means.

    `model_id` is a path, a weight role, or the name of a published repository; it stands for every part that
    the profile takes from the transformer's file.

    Raises LakeError for anything else, and WeightError as `resolve` does.
    """
    config = swaps_config(graph).base
    if model_id is None:
        return config, {role: resolve(role) for role in config.roles}
    path = Path(model_id)
    if path.exists():
        weight = ResolvedWeight(model_id, path, _path_sha256(path), "not stated")
    else:
        by_name = {
            entry.repository: entry.role for entry in MANIFEST.values() if isinstance(entry, HubFolderWeight)
        }
        role = by_name.get(model_id, model_id)
        if role not in MANIFEST:
            raise LakeError(
                f"--model_id {model_id} is no base: give a folder or file of one, a weight role "
                f"({config.transformer} is the profile's), or one of {', '.join(sorted(by_name))}"
            )
        weight = resolve(role)
    parts = {name: getattr(config, name) for name in ("transformer", "codec", "text", "identity")}
    replaced = {name: weight.role for name, role in parts.items() if role == config.transformer}
    chosen = config.model_copy(update=replaced)
    weights = {role: weight if role == weight.role else resolve(role) for role in chosen.roles}
    return chosen, weights


def _path_sha256(path: Path) -> str:
    """Digest of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return sha256(path)
    files = sorted(item for item in path.rglob("*") if item.is_file())
    lines = [f"{item.relative_to(path).as_posix()}\0{sha256(item)}" for item in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_swapper(
    lake: Lake,
    graph: StageGraph,
    settings: SwapSettings,
    *,
    checkpoint: Path | None,
    model_id: str | None,
    device: str,
    report: Callable[[str], None],
    view: RecipeView = DEFAULT_VIEW,
) -> LoadedSwapper:
    """Load base and adapters; both are compared strictly with what they should hold.

    Args:
        lake: whose current teacher or student is used unless `checkpoint` is given.
        graph: the profile's stages.
        settings: tell teacher from student.
        checkpoint: folder with `default.safetensors`, with or without our manifest.
        model_id: base instead of the profile's, see `base_weights`.
        device: as of `choose_device`.
        view: the recipe whose checkpoint it is.
        report: receives the choice of device, and a warning where the checkpoint was trained for another
            condition than it is used with.

    Raises:
        LakeError: there is no checkpoint, or it does not fit the base.
    """
    from models.swap.checkpoint import CheckpointDamaged
    from models.swap.lora_files import LoraMismatch
    from models.swap.mismatch import BaseMismatch

    stage = "teacher" if settings.sees_condition_image else "student"
    folder = checkpoint or checkpoint_folder(lake, need_artifact(lake, view.own(stage)))
    choice = choose_device(device)
    report(f"swap: {choice.reason}")
    try:
        config, weights = base_weights(graph, model_id)
        swapper = open_swapper(StageContext(lake, weights, choice.device, report), config, folder)
        name = _checkpoint_name(folder)
        for warning in _warnings(graph, settings, folder, view, given=checkpoint is not None):
            report(f"warning: {warning}")
    except (BaseMismatch, LoraMismatch, CheckpointDamaged, FileNotFoundError, ValidationError) as error:
        raise LakeError(f"the checkpoint {folder} cannot be used: {error}") from error
    wanted, numbers = swapper.base.config.identity.embedding_dim, _identity_numbers(graph)
    if numbers != wanted:
        raise LakeError(
            f"the base takes identities of {wanted} numbers, this profile's have {numbers}; "
            "choose the profile of the base with --profile"
        )
    return LoadedSwapper(swapper, name)


def _identity_numbers(graph: StageGraph) -> int:
    """Numbers in one identity of the profile's embedder."""
    stage = graph["identity_embedding"]
    assert isinstance(stage, RowStage)  # annotation stages all are
    (column,) = (column for column in stage.outputs if column.name == stage.name)
    return column.type.list_size


def _checkpoint_name(folder: Path) -> str:
    """The start of a checkpoint's digest, or of its file's where it has no manifest."""
    from models.swap.checkpoint import MANIFEST_NAME, file_sha256, load_checkpoint
    from models.swap.lora_files import FILE_NAME

    if (folder / MANIFEST_NAME).is_file():
        return load_checkpoint(folder)[1].digest[:MODEL_ID_CHARACTERS]
    return file_sha256(folder / FILE_NAME if folder.is_dir() else folder)[:MODEL_ID_CHARACTERS]


def _warnings(
    graph: StageGraph, settings: SwapSettings, folder: Path, view: RecipeView, *, given: bool
) -> list[str]:
    """Where a checkpoint sees another condition than it was trained with, as far as anything tells."""
    from models.swap.checkpoint import MANIFEST_NAME, load_checkpoint

    found = []
    if given and not (folder / MANIFEST_NAME).is_file():
        return [f"{folder.name} has no manifest: nothing tells which condition it was trained with"]
    if given:
        parents = load_checkpoint(folder)[1].parents
        trained = "student" if any(item.startswith("teacher:") for item in parents) else "teacher"
        used = "teacher" if settings.sees_condition_image else "student"
        if trained != used:
            seen = {"teacher": "condition images", "student": "whole pictures"}
            found.append(
                f"{folder.name} was trained as a {trained}, on {seen[trained]}, and is used as a {used}, "
                f"on {seen[used]}"
            )
    if view.shaped and settings.sees_condition_image:
        found.append("landmarks are drawn in the target's own face shape; the recipe shows the source's")
    config = graph[view.condition.condition].config
    if settings.condition_type is not None and isinstance(config, ConditionStageConfig):
        rendered = settings.recipe(config.image)
        if rendered != config.image:
            found.append(
                f"--condition_type {settings.condition_type} is {rendered.folder}; this profile trains "
                f"with {config.image.folder}"
            )
    return found
