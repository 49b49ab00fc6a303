"""Options that several commands share: which lake, which profile, JSON or people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from assets.recipe_view import DEFAULT_VIEW, RecipeView
from assets.stage import StageGraph
from pipeline.profiles import DEFAULT_PROFILE, PROFILES, Profile, profile
from pipeline.weights_gate import require_weights
from resources.lake.lake import Lake

DEFAULT_LAKE = "./orchard_data"

LakeOption = Annotated[
    str, typer.Option("--lake", envvar="ORCHARD_LAKE", help="Path or URI of the lake.", show_default=True)
]
ProfileOption = Annotated[
    str,
    typer.Option("--profile", envvar="ORCHARD_PROFILE", help=f"Named run: {', '.join(PROFILES)}."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="ORCHARD_DEVICE",
        help="auto, cpu, cuda, cuda:N, mps, xpu or xpu:N. A GPU asked for must exist.",
    ),
]
StagesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages by name; none means all.")
]
ShardOption = Annotated[
    list[str] | None, typer.Option("--shard", help="Only this shard; may be given several times.")
]


RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Of this recipe, listed by `orchard recipes`; else of the default one."),
]
ConsentOption = Annotated[
    str | None,
    typer.Option(
        "--consent",
        help="Your statement on what basis the pictures of all people shown may be used; written into every "
        "result.",
    ),
]


class UsageError(typer.BadParameter):
    """Something on the command line is wrong; printed without a traceback."""


def need_consent(statement: str | None) -> str:
    """The statement of `--consent` without blanks around it. Raises UsageError where nothing is said."""
    if statement is None or not statement.strip():
        raise UsageError(
            "say on what basis both people's pictures may be used, e.g. --consent 'both subjects agreed in "
            "writing, 2026-11-02' or --consent 'synthetic faces'"
        )
    return statement.strip()


def say(text: str) -> None:
    """A sentence for people, on standard error, so that --json prints one object and nothing else."""
    typer.echo(text, err=True)


def open_lake(uri: str) -> Lake:
    """The lake at `uri`, which must exist."""
    return Lake.open(uri)


def find_profile(name: str) -> Profile:
    """The profile of that name; anything else is refused with the names there are."""
    if name not in PROFILES:
        raise UsageError(f"no profile {name!r}; there are: {', '.join(PROFILES)}")
    return profile(name)


def find_view(profile_name: str, recipe: str | None) -> RecipeView:
    """What to look at for `--recipe`; unknown names are refused with those there are."""
    parts = find_profile(profile_name).parts()
    try:
        return DEFAULT_VIEW if recipe is None else parts.view(recipe)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from error


def require_started(graph: StageGraph, view: RecipeView) -> None:
    """Refuse a recipe that does not live in the lake yet."""
    if view.recipe is not None and view.recipe not in graph.recipes:
        raise UsageError(
            f"{view.recipe} was not started in this lake; `orchard run --recipe {view.recipe}` does it"
        )


def open_graph(lake: Lake, name: str, stages: list[str] | None = None) -> StageGraph:
    """The stages of a profile, their columns made ready in the lake.

    With `stages`, only these and what they depend on, so that photographs are annotated without a base.

    Raises WeightError when the profile may not be used as intended, or model files of these stages lack.
    """
    graph = find_profile(name).graph_of(lake)
    if stages:
        graph = graph.needed_for(chosen_stages(graph, stages))
    require_weights(name, sorted({role for stage in graph.stages for role in stage.weights}))
    graph.prepare(lake)
    return graph


def chosen_stages(graph: StageGraph, names: list[str] | None) -> list[str]:
    """The named stages in topological order; all when none is named. Unknown names are refused."""
    known = ("faces", *graph.names)
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise UsageError(f"no stage {', '.join(unknown)}; there are: {', '.join(known)}")
    return [name for name in known if not names or name in names]


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(value, indent=2))


def default_home() -> Path:
    """Where Dagster keeps its own state unless DAGSTER_HOME says otherwise: beside the project."""
    return project_root() / ".dagster"


def project_root() -> Path:
    """The folder that holds dagster.yaml and workspace.yaml."""
    return Path(__file__).resolve().parent.parent


__all__ = [
    "DEFAULT_LAKE",
    "DEFAULT_PROFILE",
    "ConsentOption",
    "DeviceOption",
    "JsonOption",
    "LakeOption",
    "ProfileOption",
    "RecipeOption",
    "ShardOption",
    "StagesArgument",
    "UsageError",
    "chosen_stages",
    "default_home",
    "find_profile",
    "find_view",
    "need_consent",
    "open_graph",
    "open_lake",
    "print_json",
    "project_root",
    "require_started",
    "say",
]
