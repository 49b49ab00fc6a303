"""`orchard recipes`: which training rounds a profile offers, and which live in the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    JsonOption,
    LakeOption,
    ProfileOption,
    find_profile,
    print_json,
)
from pipeline.recipes import Recipe
from resources.lake.errors import LakeError
from resources.lake.lake import Lake


def recipes_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    json: JsonOption = False,
) -> None:
    """List the profile's recipes, what each changes, and whether it lives in the lake.

    `orchard run --recipe NAME` starts one. From then on its release, teacher, triplets, student, swaps and
    evaluation are planned and computed beside those of the others, and are partitions of their own in
    Dagster.
    """
    found = recipe_lines(find_profile(profile).parts().recipes, _started(lake))
    if json:
        print_json({"recipes": found})
        return
    table = Table("recipe", "in the lake", "what it is", "differs in")
    for line in found:
        changes = "\n".join(f"{key} = {value}" for key, value in line["changes"].items())
        table.add_row(line["name"], "yes" if line["started"] else "", line["description"], changes)
    Console().print(table)


def recipe_lines(recipes: Sequence[Recipe], started: list[str]) -> list[dict[str, Any]]:
    """One line per recipe: name, description, whether it lives in the lake, and how it differs."""
    default = recipes[0]
    return [
        {
            "name": recipe.name,
            "description": recipe.description,
            "default": recipe is default,
            "started": recipe is default or recipe.name in started,
            "changes": recipe.changed_from(default),
        }
        for recipe in recipes
    ]


def _started(uri: str) -> list[str]:
    """Recipes of the lake; none where there is no lake yet."""
    try:
        return Lake.open(uri).recipes()
    except LakeError as error:
        typer.echo(f"{error}", err=True)
        return []
