"""`orchard diffface`: portraits swapped by DiffFace, under the arguments of its published program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from assets.diffface_config import DIFFFACE_SWAPS
from assets.photo_swaps.annotation import MASKS, Annotator
from models.diffface.compat import CompatConfig, position_pairs, sorted_pictures
from models.diffface.settings import DiffFaceSettings
from pipeline.commands.swap_options import flag
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    ConsentOption,
    DeviceOption,
    JsonOption,
    ProfileOption,
    UsageError,
    find_profile,
    need_consent,
    print_json,
    say,
)
from pipeline.weights_gate import require_weights
from resources.lake.lake import Lake

SOURCES, TARGETS = Path("data", "src"), Path("data", "targ")
"""Folders of the published program, where none are named."""

STEPS, GUIDANCE, FILES = "Steps", "Guidance and mask", "Files and machine"
"""Panels of `orchard diffface --help`."""


def diffface_command(
    source: Annotated[
        Path | None, typer.Argument(help="Portrait that gives the identity, or a folder; data/src if absent.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(help="Portrait that gives everything else, or a folder; data/targ if absent."),
    ] = None,
    consent: ConsentOption = None,
    timestep_respacing: Annotated[
        str | None,
        flag(
            "--timestep_respacing",
            panel=STEPS,
            help="Steps out of 1000: a number, ddimN, or steps of equal sections such as 10,15,20. 100.",
        ),
    ] = None,
    skip_timesteps: Annotated[
        int | None,
        flag(
            "--skip_timesteps",
            panel=STEPS,
            help="First steps that are left out; more of them keep more of the target. 25.",
        ),
    ] = None,
    ddim: Annotated[
        bool, flag("--ddim", panel=STEPS, help="DDIM's steps without noise of their own, not DDPM's.")
    ] = False,
    seed: Annotated[int | None, flag("--seed", panel=STEPS, help="Start of all random numbers. 404.")] = None,
    iterations_num: Annotated[
        int | None,
        flag(
            "--iterations_num",
            panel=STEPS,
            help="Independent repeats of each pair, ranked by identity distance. 4.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        flag("--batch_size", panel=STEPS, help="Swaps computed together: time and memory, not results. 1."),
    ] = None,
    loss_weight: Annotated[
        float | None,
        flag("--loss_weight", panel=GUIDANCE, help="Weight of the identity expert. 6000."),
    ] = None,
    aug_num: Annotated[
        int | None,
        flag("--aug_num", panel=GUIDANCE, help="Views of the face that the identity expert averages. 8."),
    ] = None,
    masking_threshold: Annotated[
        int | None,
        flag(
            "--masking_threshold",
            panel=GUIDANCE,
            help="Step at which the face is free of the target; larger is earlier: more of the source. 30.",
        ),
    ] = None,
    no_enforce_background: Annotated[
        bool,
        flag(
            "--no_enforce_background",
            panel=GUIDANCE,
            help="Let the face's outline change, too; otherwise pixels outside the mask stay to the bit.",
        ),
    ] = False,
    compat: Annotated[
        bool,
        flag("--compat", panel=GUIDANCE, help="Repeat the published program's faults (docs/diffface.md)."),
    ] = False,
    output_path: Annotated[
        str | None, flag("--output_path", panel=FILES, help="Folder of all files. output.")
    ] = None,
    output_file: Annotated[
        str | None,
        flag("--output_file", "-o", panel=FILES, help="PNG that figures are named after. output.png."),
    ] = None,
    panels: Annotated[
        bool,
        typer.Option(
            "--panels/--no-panels", rich_help_panel=FILES, help="Write six-panel figures, as published."
        ),
    ] = True,
    gpu_id: Annotated[
        int | None,
        flag("--gpu_id", panel=FILES, min=0, help="That GPU; an error where it is absent. See --device."),
    ] = None,
    device: DeviceOption = "auto",
    profile: ProfileOption = DEFAULT_PROFILE,
    json: JsonOption = False,
) -> None:
    """Swap the face of SOURCE onto TARGET by DiffFace: a pair of portraits, or two folders.

    Folders are paired by position: the first file by name with the first, and so on. Pictures are taken as
    aligned portraits and squeezed to the model's square, which is also the size of the results;
    `orchard swap --method diffface` finds faces in any photograph. Every repeat is written, and once more
    under its identity distance. Numbers at the end of the options' help are the defaults.

    Every file says in its own metadata that a model made it, which one, and your statement of consent.
    Swapping somebody's face without their consent can be a crime; the statement is required.
    """
    statement = need_consent(consent)
    if gpu_id is not None and device != "auto":
        raise UsageError("--gpu_id and --device both choose where to compute; give one of them")
    given = {
        "timestep_respacing": timestep_respacing,
        "skip_timesteps": skip_timesteps,
        "seed": seed,
        "iterations_num": iterations_num,
        "batch_size": batch_size,
        "loss_weight": loss_weight,
        "aug_num": aug_num,
        "masking_threshold": masking_threshold,
        "output_path": output_path,
        "output_file": output_file,
        "ddim": ddim,
        "no_enforce_background": no_enforce_background,
        "compat": CompatConfig.published() if compat else CompatConfig(),
    }
    settings = settings_of(given)
    if (source is None) != (target is None):
        raise UsageError(f"give SOURCE and TARGET, or neither for {SOURCES} and {TARGETS}")
    paired = _paired(source or SOURCES, target or TARGETS, settings.compat)
    asked = device if gpu_id is None else f"cuda:{gpu_id}"
    graph = find_profile(profile).graph()

    from assets.photo_swaps.diffface import DiffFaceFrames, OpenedDiffFace, diffface_config
    from assets.photo_swaps.diffface_run import NumberedPair, run_pairs

    config = diffface_config(graph, profile)
    roles = {role for stage in graph.needed_for([MASKS]).stages for role in stage.weights}
    require_weights(profile, sorted(roles.union(graph[DIFFFACE_SWAPS].weights)))
    opened = OpenedDiffFace.open(config, settings, asked, say)
    annotator = Annotator(Lake.locate(DEFAULT_LAKE), graph, masked_source=False, device=asked, report=say)
    pairs = [NumberedPair(number, *files) for number, files in enumerate(paired)]
    reports = run_pairs(
        DiffFaceFrames(annotator, opened), opened, pairs, statement, panels=panels, report=say
    )
    failed = [item for item in reports if item.problem is not None]
    distances = [value for item in reports for value in item.distances if value is not None]
    mean = sum(distances) / len(distances) if distances else None
    if json:
        print_json(
            {
                "out": settings.output_path,
                "model_id": opened.model_id,
                "settings": opened.settings.model_dump(mode="json"),
                "pairs": [item.as_json() for item in reports],
                "mean_identity_distance": mean,
            }
        )
    else:
        for item in reports:
            for note in item.notes:
                typer.echo(f"pair {item.pair.number}: {note}")
        told = "" if mean is None else f", mean identity distance {mean:.4f}"
        typer.echo(
            f"{settings.output_path}: {len(distances)} swaps of {len(reports) - len(failed)} pairs{told}"
            + (f"; {len(failed)} pairs failed" if failed else "")
        )
    if failed:
        raise typer.Exit(1)


def settings_of(given: dict[str, Any]) -> DiffFaceSettings:
    """Settings with the published defaults for what was not given. UsageError for what does not fit."""
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return DiffFaceSettings.model_validate(values)
    except ValidationError as error:
        told = [
            ": ".join([*(f"--{part}" for part in item["loc"]), item["msg"].removeprefix("Value error, ")])
            for item in error.errors()
        ]
        raise UsageError("; ".join(told)) from error


def _paired(source: Path, target: Path, compat: CompatConfig) -> list[tuple[Path, Path]]:
    """The files of every pair, and a sentence that says which they are."""
    if source.is_dir() != target.is_dir() or not (source.is_dir() or source.exists()):
        raise UsageError(f"{source} and {target} must both be there, as portraits or as folders of them")
    if not source.is_dir():
        return [(source, target)]
    try:
        sources, targets = sorted_pictures(source), sorted_pictures(target)
        places = position_pairs(len(sources), len(targets), compat)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    pairs = [(sources[first], targets[second]) for first, second in places]
    say(
        "paired by position: "
        + ", ".join(
            f"{number}: {first.name} onto {second.name}" for number, (first, second) in enumerate(pairs)
        )
    )
    return pairs
