"""`orchard run`: compute what is stale."""

from __future__ import annotations

from typing import Annotated

import typer

from assets.engine import make_engine
from assets.planner import Retry
from pipeline.dagster_sync import sync_instance
from pipeline.execution import run_stages
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    DeviceOption,
    JsonOption,
    LakeOption,
    ProfileOption,
    ShardOption,
    StagesArgument,
    UsageError,
    chosen_stages,
    find_profile,
    find_view,
    open_graph,
    open_lake,
    print_json,
)
from pipeline.progress import make_progress
from resources.compute.engine_choice import choose_engine
from resources.lake.lake import Lake
from resources.lake.recipes import of_recipe
from resources.lake.schema import Status
from resources.photos.reasons import Reason


def run_command(
    stages: StagesArgument = None,
    shard: ShardOption = None,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    force: Annotated[
        bool, typer.Option("--force", help="Compute the named stages even where nothing is stale.")
    ] = False,
    retry: Annotated[
        str | None,
        typer.Option(
            "--retry", metavar="quarantined[:REASON]", help="Compute quarantined rows of these stages again."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Only this recipe's stages, and what they need; `orchard recipes` lists them."
        ),
    ] = None,
    device: DeviceOption = "auto",
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="local: in this process; ray: row stages on a Ray cluster. Else ORCHARD_ENGINE.",
            show_default="local",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="An existing Ray cluster, else ORCHARD_RAY_ADDRESS, else this machine's own, on loopback.",
        ),
    ] = None,
    ray_actors: Annotated[
        int | None,
        typer.Option(
            "--ray-actors",
            min=1,
            help="Processes of a stage at most, else ORCHARD_RAY_ACTORS, else as many as the cluster holds.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compute every stale row and artifact, upstream first; with nothing stale it computes nothing.

    A kill at any moment leaves a sound lake; run the same command again and it goes on. Broken rows are
    quarantined with a reason (see `orchard status`); broken code stops the run at once.

    Examples:
        orchard run
        orchard run landmarks iris --shard shard-00003
        orchard run landmarks --retry quarantined:no_face
        orchard run --recipe inpainting
        orchard run landmarks --engine ray --ray-actors 4
    """
    chosen = parse_retry(retry) if retry is not None else None
    if force and chosen:
        raise UsageError("--force computes every row anyway; give it or --retry, not both")
    opened = open_lake(lake)
    if recipe is not None:
        stages = recipe_stages(opened, profile, recipe, stages)
    graph = open_graph(opened, profile, stages)
    try:
        where = choose_engine(engine, ray_address, ray_actors)
    except ValueError as error:
        raise UsageError(str(error)) from error
    progress = make_progress()
    if where.name != "local":
        progress.say(f"engine {where.name}: {where.reason}")
    report = run_stages(
        opened,
        graph,
        chosen_stages(graph, stages),
        shards=shard,
        force=force,
        retry=chosen,
        device=device,
        progress=progress,
        engine=make_engine(where),
    )
    sync_instance(opened, graph)
    if json:
        print_json(report.as_json())
        return
    done = ", ".join(f"{name} {count}" for name, count in report.computed_rows.items() if count)
    typer.echo(f"computed {done or 'nothing'} in {report.seconds:.1f} s")
    for name, count in report.waiting_rows.items():
        typer.echo(f"{name}: {count} rows wait for an upstream stage that was not run")
    for text in report.waiting.values():
        typer.echo(text)


def recipe_stages(lake: Lake, profile: str, recipe: str, stages: list[str] | None) -> list[str]:
    """Start a recipe in the lake; its stages to run: those named, or all of its own with what they need.

    Stages are named plainly: `teacher` is the recipe's teacher.
    """
    own = find_view(profile, recipe).recipe
    if own is not None and lake.add_recipe(own):
        typer.echo(f"{recipe} is started in {lake.uri}; it is planned and computed from now on", err=True)
    graph = find_profile(profile).graph([recipe])
    if stages:
        return [of_recipe(name, own) if of_recipe(name, own) in graph.names else name for name in stages]
    finished = [stage.name for stage in graph.stages if stage.recipe == own]
    return list(graph.needed_for(finished).names)


def parse_retry(text: str) -> Retry:
    """`quarantined` or `quarantined:REASON`; anything else is refused with the reasons there are."""
    status, _, reason = text.partition(":")
    reasons = [item.value for item in Reason if item != Reason.UPSTREAM]
    if status != Status.QUARANTINED.value or (":" in text and reason not in reasons):
        raise UsageError(f"--retry takes quarantined or quarantined:REASON, one of {', '.join(reasons)}")
    return Retry(reason or None)
