"""Recipes that live side by side in one lake: how their tables, stages and shards are named.

The default recipe's things have plain names (`teacher`, `triplets`, `triplets-00003`), those of another carry
its name behind an @ (`teacher@inpainting`, `triplets@inpainting`, `triplets@inpainting-00003`).
"""

from __future__ import annotations

import re

from resources.lake.errors import LakeError

SEPARATOR = "@"
RECIPE_TABLES = ("triplets", "swaps")
"""Tables of which every recipe has its own."""

RELEASED_TABLES = (*RECIPE_TABLES, "diffface_swaps")
"""Tables whose rows a release lists; those that are no recipe's own, the default recipe's."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.]*")


def of_recipe(name: str, recipe: str | None) -> str:
    """A stage's or table's name under a recipe; None is the default one."""
    return name if recipe is None else f"{name}{SEPARATOR}{recipe}"


def base_name(name: str) -> str:
    """A stage's or table's name without its recipe."""
    return name.partition(SEPARATOR)[0]


def recipe_of(name: str) -> str | None:
    """The recipe in a stage's or table's name; None for the default one."""
    return name.partition(SEPARATOR)[2] or None


def recipe_of_shard(shard: str) -> str | None:
    """The recipe whose pairs a shard holds; None for the default one and for photographs."""
    return recipe_of(shard.rpartition("-")[0])


def require_name(recipe: str) -> None:
    """Refuse, with LakeError, a name that could not stand in a table's name or a partition key."""
    if not _NAME.fullmatch(recipe):
        raise LakeError(
            f"{recipe!r} cannot name a recipe: small letters, digits, dots and underscores, and no dot or "
            "underscore first"
        )
