"""What teacher and student share: train adapters on the base, resume after a kill, keep a checkpoint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from assets.stage import StageConfig, StageContext
from assets.swap_base import BaseConfig, execution_settings
from models.identity.loss_networks import FaceEncoderConfig
from models.swap.sampling_config import SamplingConfig
from models.swap.training_recipe import TrainingRecipe
from resources.lake.failpoints import crash_point
from resources.lake.lake import Artifact, Lake
from resources.lake.remote import is_whole
from resources.photos.marking import Mark, mark_png
from resources.tracking.layout import (
    EVENTS_FOLDER,
    GRIDS_FOLDER,
    KEPT,
    LOSSES_FILE,
    STATES_FOLDER,
    grid_name,
)
from resources.tracking.tensorboard import FINISHED_NAME, TrainingEvents

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from numpy.typing import NDArray
    from torch import Tensor

    from models.swap.base import SwapBase
    from models.swap.data import TrainingData, ValidationRows
    from models.swap.losses import LossNetworks
    from models.swap.training import StepLosses
    from models.swap.validation import Validation

REMOVED_PREFIX = ".removed-"
REPORT_SECONDS = 5.0
LPIPS_ROLES = ("vgg16", "lpips_vgg")


class TrainingConfig(StageConfig):
    """Which base is trained, and how."""

    base: BaseConfig = Field(description="Files and shape of the base.")
    recipe: TrainingRecipe = Field(description="Steps, batch, learning rate, losses, dropouts, seed.")
    face_encoder: FaceEncoderConfig = Field(
        default=FaceEncoderConfig(), description="Network and crop of the identity loss, where there is one."
    )
    validation: SamplingConfig = Field(
        default=SamplingConfig(inversion=None), description="How validation grids are sampled."
    )

    @property
    def roles(self) -> tuple[str, ...]:
        """Weight roles of the base, and of the losses that the recipe gets to."""
        roles = [*self.base.roles]
        if self.recipe.needs_identity_network:
            roles.append(self.face_encoder.facts.role)
        if self.recipe.needs_perceptual_network:
            roles += LPIPS_ROLES
        return tuple(dict.fromkeys(roles))


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
    validation_rows: ValidationRows | None = None,
) -> Artifact:
    """Train adapters and make them a checkpoint, in one process or in several that all call this.

    Losses, TensorBoard events, validation grids and states live under `training/<stage>-<fingerprint>` in the
    lake, so that a killed run with the same inputs goes on from its last interval, until `keep_losses_only`
    removes the states; on an object store another machine may do so too. Of several processes the main one
    alone writes; every one returns the artifact.
    """
    from models.swap.checkpoint import CheckpointManifest, save_checkpoint
    from models.swap.processes import from_main, is_main, wait_for_all
    from models.swap.reading import ONE_THREAD, Readers
    from models.swap.training import train

    run = context.lake.folder("training") / f"{stage}-{fingerprint.hex()[:24]}{fingerprint.hex()[-24:]}"
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one process of every machine
        _fetch_state(context.lake, run)
    wait_for_all()
    if hint := unused_gpus(context, stage):
        context.report(hint)
    execution = execution_settings()
    attention = base.model.use_attention(execution.attention)
    context.report(f"attention: {attention.backend}: {attention.reason}")
    readers, why = ONE_THREAD, "no processes were asked for"
    if execution.reader_processes and config.recipe.occlusion:
        why = "occluded rows are encoded by the base's codec, which is here"
    elif execution.reader_processes:
        readers, why = Readers("processes", execution.reader_processes), "they were asked for"
    context.report(f"batches: read ahead by {readers.kind}, {readers.count}: {why}")
    digests = {name: parent.digest.hex() for name, parent in parents.items()}
    with _Follower(context, config.recipe, stage, run, writes=is_main()) as follower:
        result = train(
            base.model,
            data,
            config.recipe,
            run,
            codec=base.codec,
            black_latents_LC=base.black_latents_LC(),
            networks=_loss_networks(context, config),
            validation=follower.validation(validation_rows, config.validation),
            initial_lora=initial_lora,
            provenance={"base": base.sha256, **digests},
            device=context.device,
            readers=readers,
            on_resume=follower.resumed,
            on_step=follower.step,
            on_half_saved=lambda step: crash_point("mid_checkpoint"),
        )
    if not is_main():
        return from_main(_NOTHING)
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
    artifact = Artifact(
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
            "training_seconds": round(time.monotonic() - follower.started, 1),
            "losses": context.lake.publish(run / LOSSES_FILE),
            "tensorboard": context.lake.publish(run / EVENTS_FOLDER / FINISHED_NAME),
            **({"validation": context.lake.publish(newest)} if (newest := _newest_grid(run)) else {}),
            "parents": digests,
            "model_id": folder.name,
        },
    )
    return from_main(artifact)


_NOTHING = Artifact("", b"", b"", "")
"""What a process that is not the main one has to say about the artifact."""


class _Follower:
    """What happens beside a training: reports, events, grids, and copies for an object store."""

    def __init__(
        self, context: StageContext, recipe: TrainingRecipe, stage: str, run: Path, *, writes: bool
    ) -> None:
        self.started = time.monotonic()
        self._context, self._recipe, self._stage, self._run = context, recipe, stage, run
        self._events = TrainingEvents(run) if writes else None
        self._last_report = self.started

    def __enter__(self) -> _Follower:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._events is not None:
            self._events.__exit__(*error)

    def resumed(self, losses: Sequence[StepLosses]) -> None:
        """The training begins after so many finished steps."""
        if self._events is not None:
            self._events.begin([asdict(item) for item in losses])

    def step(self, step: int, losses: StepLosses) -> None:
        """A step is done, and its state saved where one was due."""
        if self._events is not None:
            self._events.scalars(step, asdict(losses))
            lake, steps = self._context.lake, self._recipe.steps
            if time.monotonic() - self._last_report > REPORT_SECONDS or step == steps:
                self._last_report = time.monotonic()
                self._context.report(f"{self._stage}: step {step}/{steps}, loss {losses.total:.4f}")
            if not lake.is_local and step % self._recipe.checkpoint_interval == 0:
                _publish_state(lake, self._run)
        crash_point("mid_training")

    def validation(self, rows: ValidationRows | None, sampling: SamplingConfig) -> Validation | None:
        """The validation of these rows; None where there are none."""
        from models.swap.validation import Validation

        return None if rows is None else Validation(rows, sampling, self._keep_grid)

    def _keep_grid(self, step: int, grid_HW3: NDArray) -> None:
        folder = self._run / GRIDS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        mark = Mark(
            version=version("orchard-faces"),
            model_id=f"{self._run.name}, step {step}",
            stage=self._stage,
            source_image_id="held-out photographs of the release",
            target_image_id="held-out photographs of the release",
            consent="as their rows in the lake say",
        )
        path = folder / grid_name(step)
        temporary = path.with_suffix(".unfinished")
        temporary.write_bytes(mark_png(grid_HW3, mark))
        temporary.replace(path)
        if not self._context.lake.is_local:
            self._context.lake.publish(path)
        if self._events is not None:
            self._events.grid(step, path)


def _loss_networks(context: StageContext, config: TrainingConfig) -> LossNetworks:
    """The networks of the losses that the recipe gets to."""
    from models.swap.losses import LossNetworks

    encode_face = perceptual = None
    if config.recipe.needs_identity_network:
        from models.swap.identity_crop import configured_face_encoder

        path = context.weight(config.face_encoder.facts.role)
        encode_face = configured_face_encoder(config.face_encoder, path, context.device)
    if config.recipe.needs_perceptual_network:
        from models.metrics.lpips import load_lpips

        perceptual = load_lpips(*(context.weight(role) for role in LPIPS_ROLES)).to(context.device)
    return LossNetworks(encode_face, perceptual)


def unused_gpus(context: StageContext, stage: str) -> str:
    """A sentence for whoever trains on one of several GPUs: how to use them all. Empty where all are used."""
    if context.device == "cpu":
        return ""
    import torch

    from models.swap.processes import several

    count = torch.accelerator.device_count()
    if several() or count < 2:
        return ""
    return (
        f"{stage}: trains on {context.device} alone, {count} GPUs are visible; "
        f"`accelerate launch --multi_gpu --num_processes {count} -m pipeline.train_worker "
        f"--lake {context.lake.uri} --stage {stage} --profile NAME` uses them all for the same checkpoint"
    )


def _manifest_digest(folder: Path) -> str:
    from models.swap.checkpoint import load_checkpoint

    return load_checkpoint(folder)[1].digest


def _newest_grid(run: Path) -> Path | None:
    return max((run / GRIDS_FOLDER).glob("*.png"), default=None)


def keep_losses_only(lake: Lake, artifact: Artifact) -> None:
    """Remove the training states of a registered checkpoint; its losses, events and grids stay.

    They are renamed before they are removed: a forced run must never resume from half of them.
    """
    location = artifact.metadata["losses"].rpartition("/")[0]
    if not lake.is_local:
        lake.storage.remove(f"{location}/{STATES_FOLDER}")
    run = lake.working_root / location
    for path in [item for item in run.iterdir() if item.name not in KEPT]:
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
    newest = max((run / STATES_FOLDER).iterdir())
    earlier = lake.storage.children((run / STATES_FOLDER).relative_to(lake.working_root).as_posix())
    lake.publish(run / LOSSES_FILE)
    kept = lake.publish(newest)
    for location in earlier:
        if location != kept:
            lake.storage.remove(location)


def _fetch_state(lake: Lake, run: Path) -> None:
    """Bring the newest whole state of this run from an object store, where this machine has none."""
    if lake.is_local or any(run.glob(f"{STATES_FOLDER}/step_*")):
        return
    location = run.relative_to(lake.working_root).as_posix()
    found = lake.storage.children(f"{location}/{STATES_FOLDER}")
    states = [item for item in found if is_whole(lake.storage, item)]
    if states:
        for file in (f"{location}/{LOSSES_FILE}", *lake.storage.children(f"{location}/{GRIDS_FOLDER}")):
            lake.fetch(file)
        lake.fetch(max(states))
