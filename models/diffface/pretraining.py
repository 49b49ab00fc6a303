"""Make the tiny denoiser: `python -m models.diffface.pretraining --work <folder> --output <file>`.

It is trained on rendered faces of the procedural world, conditioned on the world's embedding of another
photograph of the same person, so that a CPU shows real guided swaps. The learning rate is constant and the
moving average of the weights is what is kept: the run may stop at any step (`--stop-after`) and go on from it
later. A killed run started again goes on where it was; under `torchrun` the processes share each batch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.resources
import json
import time
from pathlib import Path

import numpy as np
import torch

from models.diffface.checkpoint import load_denoiser, save_denoiser
from models.diffface.config import DenoiserConfig, tiny
from models.diffface.denoiser import Denoiser
from models.diffface.pretraining_evaluation import evaluate_denoiser
from models.diffface.training import StepLosses, train_denoiser
from models.diffface.training_losses import FaceEncoder
from models.diffface.training_recipe import DenoiserRecipe
from models.diffface.world_faces import WorldFaceData, WorldFaces, load_world_faces
from models.identity.world_embedder import WorldEmbedder
from models.resumable import log_line
from models.swap.checkpoint import file_sha256
from models.swap.identity_crop import face_encoder
from models.swap.optimisers import MovingAverage
from models.swap.pretraining_data import WorldConfig
from models.swap.processes import is_main
from models.swap.training_run import LOSSES_NAME
from models.worlds.sampling import held_out_seed

LOG_EVERY = 50
STEPS, STOP_AFTER = 20_000, 3_000
"""What the schedule is made for, and where the shipped file stopped being trained."""
HELD_OUT = WorldConfig(people=200, photos=4, scenes=600)
"""Of the closing evaluation; the tiny swap model's is made of the same."""


class _EnoughError(Exception):
    """The step after which a run is to stop."""


def packaged_embedder() -> Path:
    """Return the world's embedder that comes with the package."""
    return Path(str(importlib.resources.files("models.identity"))) / "checkpoints/world_embedder.safetensors"


def fresh_denoiser(config: DenoiserConfig, seed: int) -> Denoiser:
    """Return a denoiser whose random weights the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Denoiser(config)


def pretrain(
    config: DenoiserConfig,
    recipe: DenoiserRecipe,
    faces: WorldFaces,
    work_dir: Path,
    output: Path,
    *,
    encode_face: FaceEncoder | None,
    provenance: dict[str, str],
    stop_after: int | None = None,
    export_every: int | None = None,
) -> None:
    """Train, or go on, and write the moving average to `output`.

    Args:
        config: sizes of the denoiser.
        recipe: how it is trained.
        faces: what it learns from.
        work_dir: of the resumable states.
        output: the file to write.
        encode_face: the face network of the identity term.
        provenance: what the run learns from; another one is refused on resuming.
        stop_after: a step before the recipe's last.
        export_every: write the file every so many steps too.
    """
    denoiser = fresh_denoiser(config, recipe.seed)
    began = time.monotonic()
    seen = 0

    def on_step(step: int, losses: StepLosses, average: MovingAverage | None) -> None:
        nonlocal seen
        seen += 1
        last = step in (stop_after, recipe.steps)
        if is_main() and (step % LOG_EVERY == 0 or last):
            speed = seen * recipe.batch_size / (time.monotonic() - began)
            log_line(
                f"step {step} of {stop_after or recipe.steps}: noise {losses.noise:.4f}, identity "
                f"{losses.identity:.3f}, {speed:.0f} samples/s"
            )
        if is_main() and (last or (export_every is not None and step % export_every == 0)):
            with contextlib.nullcontext() if average is None else average.applied():
                save_denoiser(output, denoiser, torch.float16)
        if step == stop_after:
            raise _EnoughError

    def on_resume(losses: list[StepLosses]) -> None:
        log_line(f"{len(losses)} steps are done") if is_main() else None
        if stop_after is not None and len(losses) >= stop_after:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        train_denoiser(
            denoiser,
            WorldFaceData(faces, recipe.identity_source),
            recipe,
            work_dir / "run",
            encode_face=encode_face,
            provenance=provenance,
            on_resume=on_resume,
            on_step=on_step,
        )


def world_recipe(arguments: argparse.Namespace) -> DenoiserRecipe:
    """Return the recipe of the command line: the published one, at a faster rate."""
    return DenoiserRecipe(
        steps=STEPS,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        warmup_steps=100,
        ema_decay=arguments.ema_decay,
        weighting="code",
        identity_source=arguments.identity_source,
        checkpoint_interval=arguments.checkpoint_interval,
        seed=arguments.seed,
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.diffface.pretraining", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the pools and resumable states")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--embedder", type=Path, default=packaged_embedder(), help="the world's embedder")
    parser.add_argument(
        "--stop-after", type=int, default=STOP_AFTER, help="steps; more than were done go on from there"
    )
    parser.add_argument("--batch-size", type=int, default=DenoiserRecipe().batch_size)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--identity-source", choices=("image", "other_photo"), default="other_photo")
    parser.add_argument("--checkpoint-interval", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--people", type=int, default=WorldConfig().people)
    parser.add_argument("--photos", type=int, default=WorldConfig().photos)
    parser.add_argument("--scenes", type=int, default=WorldConfig().scenes)
    parser.add_argument("--held-out-pictures", type=int, default=400, help="of the closing evaluation")
    parser.add_argument("--held-out-samples", type=int, default=100, help="of the closing evaluation")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    embedder, digest = WorldEmbedder(arguments.embedder), file_sha256(arguments.embedder)
    recipe = world_recipe(arguments)
    world = WorldConfig(
        seed=arguments.seed, people=arguments.people, photos=arguments.photos, scenes=arguments.scenes
    )

    def faces_of(config: WorldConfig) -> WorldFaces:
        return load_world_faces(
            config,
            embedder,
            arguments.work,
            recipe.identity_source,
            log_line,
            embedder_digest=digest,
            workers=arguments.threads,
        )

    pretrain(
        tiny(),
        recipe,
        faces_of(world),
        arguments.work,
        arguments.output,
        encode_face=face_encoder("world", arguments.embedder),
        provenance={"world": world.model_dump_json(), "embedder": digest},
        stop_after=arguments.stop_after,
        export_every=arguments.checkpoint_interval,
    )
    if not is_main():
        return
    write_log(arguments.output, arguments.work / "run")
    held_out = HELD_OUT.model_copy(update={"seed": held_out_seed(arguments.seed)})
    report = evaluate_denoiser(
        load_denoiser(arguments.output),
        faces_of(held_out),
        embedder,
        pictures=arguments.held_out_pictures,
        samples=arguments.held_out_samples,
    )
    text = json.dumps(report, indent=2)
    arguments.output.with_name(f"{arguments.output.stem}_gate.json").write_text(text + "\n", encoding="utf-8")
    log_line(json.dumps(report))
    if not report["passed"]:
        raise SystemExit(f"{arguments.output} does not pass its gate: nothing may be swapped with it")


def write_log(output: Path, run_dir: Path) -> None:
    """Write the training log, medians of 50 steps, beside the denoiser."""
    lines = (run_dir / LOSSES_NAME).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    entries = []
    for start in range(0, len(rows), LOG_EVERY):
        part = rows[start : start + LOG_EVERY]
        terms = {
            name: round(float(np.median([row[name] for row in part])), 4)
            for name in ("noise", "variance_bound", "identity")
        }
        entries.append({"step": start + len(part), **terms})
    log = "".join(json.dumps(entry) + "\n" for entry in entries)
    output.with_name(f"{output.stem}_log.jsonl").write_text(log, encoding="utf-8")


if __name__ == "__main__":
    main()
