"""From a profile's parts and the chosen recipes to the DAG."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from assets.condition import OWN_CONDITION, ConditionNames, ConditionStageConfig, condition_stage
from assets.diffface_config import DiffFaceSwapsConfig
from assets.diffface_swaps import diffface_swaps_stage
from assets.evaluation import EvaluationConfig, evaluation_stage
from assets.evaluation_protocol import (
    EvaluationProtocolConfig,
    evaluation_protocol_stage,
    protocol_judges,
)
from assets.frontier import frontier_stage
from assets.frontier_config import FrontierConfig
from assets.judges import DLIB, WORLD
from assets.latents import LatentsConfig, latents_stage
from assets.pair_condition import pair_condition_config
from assets.prompt_embeddings import prompt_embeddings_config, prompt_embeddings_stage
from assets.pseudo_triplets import PseudoTripletsConfig, pseudo_triplets_stage
from assets.recipe_view import RecipeView
from assets.release import NEEDED, release_stage
from assets.source_identity import SOURCE_IDENTITY
from assets.stage import RowStage, Stage, StageGraph
from assets.student import student_stage
from assets.swap_base import BaseConfig
from assets.swapping import IDENTITY, PairReading
from assets.swaps import SwapsConfig, swaps_stage
from assets.teacher import TrainingConfig, teacher_stage
from assets.triplet_scores import scores_config, triplet_scores_stage
from assets.triplets_release import triplets_release_stage
from models.metrics.protocol_names import JudgeName
from pipeline.recipes import Recipe, condition_label
from resources.compute.demand import StageResources

REFERENCE = "identity_reference"


@dataclass(frozen=True)
class BatchSizes:
    """Rows at a time in the stages that run the base. No fingerprint holds them."""

    latents: int
    pseudo_triplets: int
    swaps: int


SMALL_BASE = BatchSizes(latents=32, pseudo_triplets=32, swaps=48)
"""For `tiny_base` on a CPU."""


@dataclass(frozen=True)
class Parts:
    """What a profile is made of: annotation, the base, recipes, how many rows its stages take, and judges.

    `judges` are the encoders that tell in `evaluation_protocol` whose face it is; one at least should be none
    that training sees. `diffface` is None where DiffFace's networks lack or may not be used. `resources` are
    what a process of a stage takes of a cluster, by the stage's name without recipe and condition; where
    nothing is said, one core.
    """

    annotation: tuple[RowStage, ...]
    base: BaseConfig
    recipes: tuple[Recipe, ...]
    batches: BatchSizes = SMALL_BASE
    judges: tuple[JudgeName, ...] = ("dlib",)
    diffface: DiffFaceSwapsConfig | None = None
    resources: Mapping[str, StageResources] = field(default_factory=dict)

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name. Raises KeyError that lists the names."""
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        names = ", ".join(recipe.name for recipe in self.recipes)
        raise KeyError(f"no recipe {name!r}; there are: {names}")

    def view(self, name: str) -> RecipeView:
        """How to find the things of the recipe of that name in a lake. KeyError as `recipe`."""
        recipe, default = self.recipe(name), self.recipes[0]
        own = None if recipe is default else name
        return RecipeView(own, _names(recipe, default), recipe.landmarks == "source_shape")


def build_graph(parts: Parts, names: Collection[str] = ()) -> StageGraph:
    """The DAG of the default recipe and of those named.

    Raises KeyError for a name that none of the profile's recipes has.
    """
    for name in names:
        parts.recipe(name)
    default = parts.recipes[0]
    chosen = [recipe for recipe in parts.recipes if recipe is default or recipe.name in names]
    conditions = {recipe.condition: _names(recipe, default) for recipe in chosen}
    stages: list[Stage] = list(parts.annotation)
    for condition, columns in conditions.items():
        config = ConditionStageConfig(image=condition, size=parts.base.model.image_size)
        latents = LatentsConfig(condition=config, codec=parts.base.codec_source)
        stages += [condition_stage(config, columns), latents_stage(latents, columns, parts.batches.latents)]
    stages.append(prompt_embeddings_stage(prompt_embeddings_config(parts.base)))
    for recipe in chosen:
        stages += _recipe_stages(parts, recipe, None if recipe is default else recipe.name, default)
    return StageGraph(
        tuple(_with_resources(stage, parts.resources) for stage in stages),
        recipes=tuple(recipe.name for recipe in chosen),
    )


def _with_resources(stage: Stage, resources: Mapping[str, StageResources]) -> Stage:
    """The stage with what its kind takes; `latents_<condition>` takes what `latents` does."""
    kinds = [kind for kind in resources if stage.asset == kind or stage.asset.startswith(f"{kind}_")]
    if not isinstance(stage, RowStage) or not kinds:
        return stage
    return replace(stage, resources=resources[max(kinds, key=len)])


def _names(recipe: Recipe, default: Recipe) -> ConditionNames:
    own = recipe.condition == default.condition
    return OWN_CONDITION if own else ConditionNames(condition_label(recipe.condition))


def _recipe_stages(parts: Parts, recipe: Recipe, name: str | None, default: Recipe) -> Iterator[Stage]:
    """Everything from the release to the evaluation of one recipe; `name` is None for the default one."""
    base, columns = parts.base, _names(recipe, default)
    inverted = recipe.inverted_sampling
    plain = recipe.sampling.model_copy(update={"inversion": None})
    config = ConditionStageConfig(image=recipe.condition, size=base.model.image_size)
    shaped = recipe.landmarks == "source_shape"
    pair_condition = pair_condition_config(config, parts.annotation) if shaped else None
    annotated = {stage.name for stage in parts.annotation}
    reading = PairReading(
        condition=columns,
        identity=SOURCE_IDENTITY if SOURCE_IDENTITY in annotated else IDENTITY,
        target_identity=(inverted.inversion or "").startswith("trgID"),
    )
    extra = annotated.intersection((SOURCE_IDENTITY, REFERENCE))
    needed = tuple(dict.fromkeys((*NEEDED, *sorted(extra), columns.latents)))
    yield release_stage(recipe.release, name, needed)
    if parts.diffface is not None and name is None:
        yield diffface_swaps_stage(parts.diffface)
    training = TrainingConfig(
        base=base, recipe=recipe.teacher, face_encoder=recipe.face_encoder, validation=plain
    )
    yield teacher_stage(training, name, columns, recipe.teacher_learns)
    triplets = PseudoTripletsConfig(base=base, sampling=inverted, pair_condition=pair_condition)
    yield pseudo_triplets_stage(triplets, name, reading, parts.batches.pseudo_triplets)
    yield triplet_scores_stage(scores_config(parts.annotation), parts.annotation, name)
    yield triplets_release_stage(recipe.triplets, name)
    yield student_stage(training.model_copy(update={"recipe": recipe.student}), name)
    swaps = SwapsConfig(base=base, sampling=plain, inversion=inverted, pair_condition=pair_condition)
    yield swaps_stage(swaps, name, reading, parts.batches.swaps)
    # at full size APPLE is evaluated where DiffFace's networks, which have no public home, are not
    diffface = parts.diffface is not None and parts.diffface.networks == "world"
    # the world's embedder knows rendered faces alone: it judges where a profile's photographs are such
    world = (WORLD,) if any(WORLD.weights in stage.weights for stage in parts.annotation) else ()
    yield evaluation_stage(
        EvaluationConfig(size=base.model.image_size, codec=base.codec_source, judges=(DLIB, *world)),
        name,
        diffface=diffface,
    )
    frontier = FrontierConfig(swaps=swaps, sweep=recipe.sweep, judges=world)
    yield frontier_stage(frontier, name, reading, parts.batches.swaps, diffface=diffface)
    networks = protocol_judges(parts.judges, _identity_stage(parts), _loss_roles(recipe))
    protocol = EvaluationProtocolConfig(size=base.model.image_size, judges=networks)
    yield evaluation_protocol_stage(protocol, parts.annotation, name, diffface=diffface)


def _identity_stage(parts: Parts) -> RowStage:
    """The stage whose numbers tell the swapper who the source is."""
    return next(stage for stage in parts.annotation if stage.name == IDENTITY)


def _loss_roles(recipe: Recipe) -> list[str]:
    """Weight roles of the network of the identity loss, where one of both trainings gets to that loss."""
    seen = any(training.needs_identity_network for training in (recipe.teacher, recipe.student))
    return [recipe.face_encoder.facts.role] if seen else []
