"""Make the tiny base: `python -m models.swap.pretraining --embedder <file> --work <folder> --output <file>`.

The whole network is trained on exact swaps of the procedural world, so that identity has an effect before any
teacher is trained on it; what PuLID's weights are to FLUX, this training is to the tiny base. A killed run
started again with the same arguments goes on where it was. Under `torchrun` the processes share each batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.faces.condition import PIXEL_CONDITION
from models.identity.world_embedder import WorldEmbedder
from models.resumable import log_line
from models.swap import config as swap_config
from models.swap.base import SwapBase, load_base, save_base
from models.swap.checkpoint import file_sha256
from models.swap.codec import PatchCodec
from models.swap.config import SwapModelConfig
from models.swap.data import TrainingData
from models.swap.detected_frames import DetectedFrames, DetectorFiles
from models.swap.pretraining_data import (
    Embedder,
    MixedData,
    WorldConfig,
    WorldData,
    WorldPool,
    build_pool,
    joined,
)
from models.swap.pretraining_evaluation import LOG_EVERY, evaluate, gate, write_gate, write_log
from models.swap.processes import is_main
from models.swap.training import StepLosses, train
from models.swap.training_recipe import TrainingRecipe
from models.swap.transformer import SwapTransformer
from models.worlds.sampling import held_out_seed

CODEC_IMAGES = 6000
DETECTED_SHARE = 0.5
"""Rows with a condition image by detectors, where there are such."""


def fresh_base(config: SwapModelConfig, pool: WorldPool, seed: int) -> tuple[SwapTransformer, PatchCodec]:
    """Return a random transformer and a codec fitted to the pool, with fixed prompts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SwapTransformer(config)
    model.prompts.fill_with_noise(torch.Generator().manual_seed(seed))
    # A velocity of zero is the better start: the output map begins silent.
    torch.nn.init.zeros_(model.flux.proj_out.weight)
    torch.nn.init.zeros_(model.flux.proj_out.bias)
    people, photos, width = pool.embeddings_PKD.shape
    embeddings = torch.from_numpy(pool.embeddings_PKD).reshape(-1, width)
    model.identity_encoder.fit_whitening(embeddings, torch.arange(people).repeat_interleave(photos))
    codec = PatchCodec(config.codec)
    rng = np.random.default_rng(seed)
    targets = rng.choice(len(pool.targets_NHWC), min(CODEC_IMAGES, len(pool.targets_NHWC)), replace=False)
    conditions = rng.choice(
        len(pool.conditions_SHWC), min(CODEC_IMAGES // 4, len(pool.conditions_SHWC)), replace=False
    )
    codec.fit(np.concatenate([pool.targets_NHWC[targets], pool.conditions_SHWC[conditions]]))
    return model, codec


@dataclass(frozen=True)
class DetectedScenes:
    """A world whose scenes are annotated by detectors, and the files of these."""

    world: WorldConfig
    detectors: DetectorFiles


class _EnoughError(Exception):
    """The step after which a run is to stop."""


def pretrain(
    config: SwapModelConfig,
    recipe: TrainingRecipe,
    world: WorldConfig,
    embedder: Embedder,
    work_dir: Path,
    output: Path,
    *,
    export_every: int | None = None,
    start_from: Path | None = None,
    stop_after: int | None = None,
    more_seeds: Sequence[int] = (),
    detected: DetectedScenes | None = None,
) -> SwapBase:
    """Render (or reload) the pool, train everything, write the base to `output` and return it.

    Args:
        config: sizes of the base.
        recipe: how it is trained.
        world: what is rendered.
        embedder: gives the identities.
        work_dir: of the pool and the resumable states.
        output: the file to write.
        export_every: write it every so many steps too.
        start_from: a base of the same sizes whose weights, codec and whitening this run starts with.
        stop_after: a step before the recipe's last, whose learning rate is then not the schedule's end.
        more_seeds: of worlds of the same size that are learnt from too.
        detected: scenes annotated by detectors, which half of the rows are then of.
    """
    pool = joined(
        [
            build_pool(
                config,
                world.model_copy(update={"seed": seed}),
                embedder,
                work_dir,
                log_line,
                workers=torch.get_num_threads(),
            )
            for seed in (world.seed, *more_seeds)
        ]
    )
    model, codec = fresh_base(config, pool, recipe.seed)
    if start_from is not None:
        earlier = load_base(start_from, config)
        model.load_state_dict(earlier.model.state_dict())
        assert isinstance(earlier.codec, PatchCodec)  # the one kind of our own file
        codec.load_state_dict(earlier.codec.state_dict())
    data: TrainingData = WorldData(pool, codec)
    if detected is not None:
        annotator = DetectedFrames(detected.detectors, config.image_size, torch.get_num_threads())
        more = build_pool(
            config,
            detected.world,
            embedder,
            work_dir,
            log_line,
            workers=torch.get_num_threads(),
            detectors=annotator,
        )
        data = MixedData(WorldData(pool, codec), WorldData(more, codec), DETECTED_SHARE)
    black = codec.encode(np.zeros((1, config.image_size, config.image_size, 3), np.uint8))[0]
    began = time.monotonic()
    first: list[int] = []

    def on_step(step: int, losses: StepLosses) -> None:
        if not first:
            first.append(step)
        if not is_main():
            return
        if step % LOG_EVERY == 0 or step == recipe.steps:
            rate = (step - first[0] + 1) * recipe.batch_size / (time.monotonic() - began)
            log_line(f"step {step} of {recipe.steps}: loss {losses.flow:.4f}, {rate:.0f} samples/s")
        if export_every is not None and step % export_every == 0:
            save_base(output, model, codec)

    def on_every_step(step: int, losses: StepLosses) -> None:
        on_step(step, losses)
        if step == stop_after:
            raise _EnoughError

    def on_resume(losses: list[StepLosses]) -> None:
        if len(losses) == stop_after:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        train(
            model,
            data,
            recipe,
            work_dir / "run",
            codec=codec,
            black_latents_LC=black,
            provenance={
                "world": world.model_dump_json(),
                "more_seeds": json.dumps(list(more_seeds)),
                "detected": "" if detected is None else detected.world.model_dump_json(),
                "start": "" if start_from is None else file_sha256(start_from),
            },
            on_resume=on_resume,
            on_step=on_every_step,
        )
    if is_main():
        save_base(output, model, codec)
    return SwapBase(model, codec, config, "")


def recipe_from(arguments: argparse.Namespace) -> TrainingRecipe:
    """Return the pretraining recipe: everything moves, and a tenth of the steps has no condition branch."""
    return TrainingRecipe(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        schedule="cosine",
        warmup_steps=min(200, arguments.steps // 10),
        weight_decay=0.01,
        gradient_clip=1.0,
        optimiser=arguments.optimiser,
        text_dropout=arguments.dropout,
        condition_dropout=arguments.dropout,
        branch_removal=arguments.dropout,
        identity_loss_weight=0.0,
        timestep_shift=arguments.timestep_shift,
        trainable="everything",
        checkpoint_interval=arguments.checkpoint_interval,
        seed=arguments.seed,
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.swap.pretraining", description=__doc__)
    parser.add_argument("--embedder", type=Path, required=True, help="the world's embedder (safetensors)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the pool and resumable states")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--timestep-shift", type=float, default=1.0, help="more: more of the highest noise")
    parser.add_argument("--optimiser", choices=("adamw", "muon"), default="adamw")
    parser.add_argument(
        "--dropout", type=float, default=0.1, help="share of text, of condition, and of the branch left out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--more-seeds", type=int, nargs="*", default=[], help="seeds of more worlds to learn from"
    )
    parser.add_argument(
        "--detected-scenes", type=int, default=0, help="scenes annotated by detectors: half of the rows"
    )
    parser.add_argument("--detected-seed", type=int, default=4, help="seed of these scenes' world")
    parser.add_argument(
        "--detectors",
        type=Path,
        nargs=3,
        metavar=("CENTERFACE", "FACE_LANDMARKER", "PERSON_SEGMENTER"),
        help="model files; `orchard weights list` tells where they lie",
    )
    parser.add_argument("--people", type=int, default=WorldConfig().people)
    parser.add_argument("--photos", type=int, default=WorldConfig().photos)
    parser.add_argument("--scenes", type=int, default=WorldConfig().scenes)
    parser.add_argument("--checkpoint-interval", type=int, default=250)
    parser.add_argument("--export-every", type=int, help="write the output every so many steps too")
    parser.add_argument("--start-from", type=Path, help="a base whose weights this run starts with")
    parser.add_argument("--stop-after", type=int, help="a step before the schedule's last one")
    parser.add_argument(
        "--downsample-size",
        type=int,
        default=PIXEL_CONDITION.downsample_size,
        help="side the face is squeezed to in the condition image",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--held-out-pairs",
        type=int,
        default=200,
        help="pairs of the closing evaluation; 0 leaves it and the gate out",
    )
    parser.add_argument("--held-out-people", type=int, default=200, help="people of the closing evaluation")
    parser.add_argument("--held-out-scenes", type=int, default=600, help="scenes of the closing evaluation")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    config = swap_config.tiny()
    condition = PIXEL_CONDITION.model_copy(update={"downsample_size": arguments.downsample_size})
    world = WorldConfig(
        seed=arguments.seed,
        people=arguments.people,
        photos=arguments.photos,
        scenes=arguments.scenes,
        condition=condition,
    )
    embedder = WorldEmbedder(arguments.embedder)
    base = pretrain(
        config,
        recipe_from(arguments),
        world,
        embedder,
        arguments.work,
        arguments.output,
        export_every=arguments.export_every,
        start_from=arguments.start_from,
        stop_after=arguments.stop_after,
        more_seeds=arguments.more_seeds,
        detected=_detected(arguments, world),
    )
    if not is_main():
        return
    write_log(arguments.output, arguments.work / "run")
    if arguments.stop_after is not None or not arguments.held_out_pairs:
        return
    held_out = WorldConfig(
        seed=held_out_seed(arguments.seed),
        people=arguments.held_out_people,
        photos=4,
        scenes=arguments.held_out_scenes,
        condition=condition,
    )
    report = evaluate(
        base,
        build_pool(config, held_out, embedder, arguments.work, log_line),
        held_out,
        arguments.held_out_pairs,
    )
    verdict = gate(report)
    write_gate(arguments.output, report)
    log_line(json.dumps(report))
    log_line(json.dumps(verdict))
    if not verdict["passed"]:
        raise SystemExit(f"{arguments.output} does not pass its gate: nothing may be trained on it")


def _detected(arguments: argparse.Namespace, world: WorldConfig) -> DetectedScenes | None:
    if not arguments.detected_scenes:
        return None
    if arguments.detectors is None:
        raise SystemExit("--detected-scenes needs --detectors: files of CenterFace, face mesh, person mask")
    return DetectedScenes(
        world.model_copy(
            update={
                "seed": arguments.detected_seed,
                "people": min(world.people, arguments.detected_scenes),
                "scenes": arguments.detected_scenes,
                "detected": True,
            }
        ),
        DetectorFiles(*arguments.detectors),
    )


if __name__ == "__main__":
    main()
