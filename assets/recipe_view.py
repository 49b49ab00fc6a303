"""Which recipe a report, an export or a swap by hand is about, in a lake where several live side by side."""

from __future__ import annotations

from dataclasses import dataclass

from assets.condition import OWN_CONDITION, ConditionNames
from resources.lake.recipes import of_recipe


@dataclass(frozen=True)
class RecipeView:
    """What to look at in a lake of several recipes: one of them (None: the default), and its condition image.

    `shaped` says that condition images of pairs show the source's face shape.
    """

    recipe: str | None = None
    condition: ConditionNames = OWN_CONDITION
    shaped: bool = False

    def own(self, name: str) -> str:
        """A stage's or table's name under the recipe."""
        return of_recipe(name, self.recipe)


DEFAULT_VIEW = RecipeView()
"""The default recipe."""
