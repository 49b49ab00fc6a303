"""What teacher and student share: train adapters on the base, resume after a kill, keep a checkpoint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from assets.stage import StageConfig, StageContext
from assets.swap_base import BaseConfig
from models.swap.training_recipe import TrainingRecipe
from resources.lake.failpoints import crash_point
from resources.lake.lake import Artifact, Lake
from resources.lake.remote import is_whole

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from torch import Tensor

    from models.swap.base import SwapBase
    from models.swap.data import TrainingData

LOSSES_FILE = "losses.jsonl"
STATES = "resume"
REMOVED_PREFIX = ".removed-"
REPORT_SECONDS = 5.0


class TrainingConfig(StageConfig):
    """Which base is trained, and how."""

    base: BaseConfig = Field(description="Files and shape of the base.")
    recipe: TrainingRecipe = Field(description="Steps, batch, learning rate, dropouts, seed.")


def train_checkpoint(
    context: StageContext,
    config: TrainingConfig,
    base: SwapBase,
    data: TrainingData,
    *,
    stage: str,
    code_version: str,
    fingerprint: bytes,
    parents: Mapping[str, Artifact],
    initial_lora: Mapping[str, Tensor] | None = None,
) -> Artifact:
    """Train adapters and register them as a checkpoint.

    Training states live under `training/<stage>-<fingerprint>` in the lake, so that a killed run with the
    same inputs goes on from its last interval, until `keep_losses_only` removes them; on an object store
    another machine may do so too.
    """
    from models.swap.checkpoint import CheckpointManifest, save_checkpoint
    from models.swap.training import train

    run = context.lake.folder("training") / f"{stage}-{fingerprint.hex()[:24]}{fingerprint.hex()[-24:]}"
    started = time.monotonic()
    last_report = started
    first = last = 0.0

    def on_step(step: int, losses: Any) -> None:
        nonlocal last_report, first, last
        first = first or losses.total
        last = losses.total
        if time.monotonic() - last_report > REPORT_SECONDS or step == config.recipe.steps:
            last_report = time.monotonic()
            context.report(f"{stage}: step {step}/{config.recipe.steps}, loss {losses.total:.4f}")
        if not context.lake.is_local and step % config.recipe.checkpoint_interval == 0:
            _publish_state(context.lake, run)
        crash_point("mid_training")

    _fetch_state(context.lake, run)
    digests = {name: parent.digest.hex() for name, parent in parents.items()}
    result = train(
        base.model,
        data,
        config.recipe,
        run,
        codec=base.codec,
        black_latents_LC=base.black_latents_LC(),
        initial_lora=initial_lora,
        provenance={"base": base.sha256, **digests},
        device=context.device,
        on_step=on_step,
        on_half_saved=lambda step: crash_point("mid_checkpoint"),
    )
    crash_point("mid_checkpoint")
    manifest = CheckpointManifest(
        config=base.config,
        recipe=config.recipe,
        base_sha256=base.sha256,
        parents=tuple(f"{name}:{digest}" for name, digest in sorted(digests.items())),
    )
    folder = save_checkpoint(context.lake.folder("checkpoints"), result.lora_state, manifest)
    digest = bytes.fromhex(_manifest_digest(folder))[:16]
    crash_point("mid_checkpoint")
    window = max(1, len(result.losses) // 10)
    return Artifact(
        stage=stage,
        fingerprint=fingerprint,
        digest=digest,
        code_version=code_version,
        location=context.lake.publish(folder),
        metadata={
            "steps": config.recipe.steps,
            "samples": config.recipe.steps * config.recipe.batch_size,
            "first_loss": round(sum(item.total for item in result.losses[:window]) / window, 4),
            "last_loss": round(sum(item.total for item in result.losses[-window:]) / window, 4),
            "training_seconds": round(time.monotonic() - started, 1),
            "losses": context.lake.publish(run / LOSSES_FILE),
            "parents": digests,
            "model_id": folder.name,
        },
    )


def _manifest_digest(folder: Path) -> str:
    from models.swap.checkpoint import load_checkpoint

    return load_checkpoint(folder)[1].digest


def keep_losses_only(lake: Lake, artifact: Artifact) -> None:
    """Remove the training states of a registered checkpoint; its loss curve stays.

    They are renamed before they are removed: a forced run must never resume from half of them.
    """
    location = artifact.metadata["losses"].rpartition("/")[0]
    if not lake.is_local:
        lake.storage.remove(f"{location}/{STATES}")
    run = lake.working_root / location
    for path in [item for item in run.iterdir() if item.name != LOSSES_FILE]:
        doomed = path
        if not path.name.startswith(REMOVED_PREFIX):
            doomed = path.rename(run / f"{REMOVED_PREFIX}{os.urandom(4).hex()}-{path.name}")
        shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()


def checkpoint_folder(lake: Lake, artifact: Artifact) -> Path:
    """Folder of a checkpoint artifact on this machine."""
    assert artifact.location is not None  # checkpoints always have one
    return lake.fetch(artifact.location)


def _publish_state(lake: Lake, run: Path) -> None:
    """Put the newest training state into an object store, then remove the one before.

    The losses go first: a state without the losses of its steps could not be resumed.
    """
    newest = max((run / STATES).iterdir())
    earlier = lake.storage.children((run / STATES).relative_to(lake.working_root).as_posix())
    lake.publish(run / LOSSES_FILE)
    kept = lake.publish(newest)
    for location in earlier:
        if location != kept:
            lake.storage.remove(location)


def _fetch_state(lake: Lake, run: Path) -> None:
    """Bring the newest whole state of this run from an object store, where this machine has none."""
    if lake.is_local or any(run.glob(f"{STATES}/step_*")):
        return
    location = run.relative_to(lake.working_root).as_posix()
    states = [item for item in lake.storage.children(f"{location}/{STATES}") if is_whole(lake.storage, item)]
    if states:
        lake.fetch(f"{location}/{LOSSES_FILE}")
        lake.fetch(max(states))
