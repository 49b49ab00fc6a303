"""`evaluation_protocol`: what published tables measure, for every method, beside *copy target*.

Unlike `evaluation` it needs no exact answers, so it works on photographs: identity by several encoders and
retrieval, pose, expression, gaze, LPIPS, FID and the Frechet distance of CLIP's features. Encoders and
networks that only measure are optional: what is not here is in the table with the reason. All methods are
measured on the same pairs, those that each of them has swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from assets.annotating import AnnotationRecipe, annotation_recipes
from assets.evaluation import COPY_TARGET
from assets.protocol_pairs import ProtocolPhotographs, common_swaps
from assets.stage import ArtifactStage, RowStage, StageConfig, StageContext, StageGraph
from assets.swap_methods import swap_inputs
from assets.triplet_scores import COEFFICIENTS
from models.metrics.protocol import ProtocolMetric, SwapOutputs, WeightFile, protocol_scores
from models.metrics.protocol_names import MEASURE_ROLES, JudgeName, MeasureName, judge_role
from resources.lake.digest import digest_json
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import of_recipe
from resources.weights.errors import WeightError
from resources.weights.resolve import resolve

CODE_VERSION = "1"
LANDMARKS = "landmarks"
EVERYTHING: tuple[MeasureName, ...] = ("identity", "attributes", *MEASURE_ROLES)


class ProtocolJudge(StageConfig):
    """One judge of identity."""

    network: JudgeName = Field(description="Which encoder.")
    used_in_training: bool = Field(
        description="Whether the swapper saw it: as identity loss, or as what carries the source's identity."
    )


class EvaluationProtocolConfig(StageConfig):
    """What is measured, and at which size pictures are looked at."""

    size: int = Field(ge=16, description="Side of the swaps; copy-target goes through the same size, px.")
    judges: tuple[ProtocolJudge, ...] = Field(min_length=1, description="Encoders that judge identity.")
    measures: tuple[MeasureName, ...] = Field(default=EVERYTHING, description="What is measured.")
    long_side: int = Field(
        default=512,
        ge=64,
        description="Pictures are brought to the shape of their photograph, but to no longer side, px.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap intervals.")
    annotation: tuple[AnnotationRecipe, ...] = Field(
        default=(), description="Filled in by the stage: what the annotation stages compute with."
    )

    @property
    def optional_roles(self) -> tuple[str, ...]:
        """Weight roles that are used where they are."""
        roles = [judge_role(judge.network) for judge in self.judges] if "identity" in self.measures else []
        roles += [role for measure in self.measures for role in MEASURE_ROLES.get(measure, ())]
        return tuple(dict.fromkeys(roles))


def protocol_judges(
    judges: Sequence[JudgeName], identity: RowStage, losses: Sequence[str]
) -> tuple[ProtocolJudge, ...]:
    """Judges, each with whether training saw it.

    Args:
        judges: encoders.
        identity: the profile's stage that gives the source's identity.
        losses: weight roles of the networks of identity losses that count.
    """
    seen = {*identity.weights, *losses}
    return tuple(ProtocolJudge(network=name, used_in_training=judge_role(name) in seen) for name in judges)


def evaluation_protocol_stage(
    config: EvaluationProtocolConfig,
    annotation: Sequence[RowStage],
    recipe: str | None = None,
    *,
    diffface: bool = False,
) -> ArtifactStage:
    """The stage `evaluation_protocol` of a recipe; `annotation` are the profile's stages.

    `diffface` says whether the profile has the stage `diffface_swaps`, whose method is then one of them.
    """
    graph = StageGraph(tuple(annotation)).needed_for((LANDMARKS,))
    stages = graph.row_stages()

    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return _build(context, fingerprint, config, graph, recipe, diffface=diffface)

    def optional_weights(lake: Lake) -> bytes:
        found = find_weights(config.optional_roles)
        return digest_json({role: getattr(file, "sha256", "") for role, file in found.items()})

    return ArtifactStage(
        name=of_recipe("evaluation_protocol", recipe),
        by_recipe=True,
        code_version=CODE_VERSION,
        description="The measures of published tables for every swap method, beside copy-target.",
        config=config.model_copy(update={"annotation": annotation_recipes(graph)}),
        inputs=swap_inputs(recipe, diffface=diffface),
        weights=tuple(dict.fromkeys(role for stage in stages for role in stage.weights)),
        build=build,
        extra_content=optional_weights,
    )


def find_weights(roles: Sequence[str]) -> dict[str, WeightFile | str]:
    """By role the file, or why it cannot be used: it is absent, or its licence forbids that."""
    found: dict[str, WeightFile | str] = {}
    for role in roles:
        try:
            weight = resolve(role)
        except WeightError as error:
            found[role] = f"weight {role} is not here ({error.problem})"
        else:
            found[role] = WeightFile(weight.path, weight.sha256)
    return found


def _build(
    context: StageContext,
    fingerprint: bytes,
    config: EvaluationProtocolConfig,
    graph: StageGraph,
    recipe: str | None,
    *,
    diffface: bool,
) -> Artifact:
    stage = of_recipe("evaluation_protocol", recipe)
    swaps, left_out = common_swaps(context.lake, recipe, diffface=diffface)
    methods = list(next(iter(swaps.values()), {}))
    rows: list[dict[str, Any]] = []
    if swaps:
        photographs = ProtocolPhotographs(
            context, graph, list(swaps.values()), size=config.size, long_side=config.long_side
        )
        outputs: dict[str, SwapOutputs] = {COPY_TARGET: photographs.copies()}
        for method in methods:
            outputs[method] = photographs.outputs([pair[method]["swap"] for pair in swaps.values()])
        weights = find_weights(config.optional_roles)
        weights |= {role: WeightFile(item.path, item.sha256) for role, item in context.weights.items()}
        metrics = protocol_metrics(config, graph)
        result = protocol_scores(
            outputs, photographs.pairs, metrics, weights, device=context.device, seed=config.seed
        )
        rows = result.rows()
    for reason in dict.fromkeys(row["not_measured"] for row in rows if row["not_measured"]):
        told = dict.fromkeys(row["metric"] for row in rows if row["not_measured"] == reason)
        context.report(f"{stage}: {', '.join(told)}: {reason}")
    content = {"pairs": len(swaps), "left_out": left_out, "scores": rows}
    return Artifact(
        stage=stage,
        fingerprint=fingerprint,
        digest=digest_json(content),
        code_version=CODE_VERSION,
        metadata={
            **content,
            **{
                f"{row['method']}: {row['metric']}": round(row["value"], 4)
                for row in rows
                if row["value"] is not None
            },
        },
    )


def protocol_metrics(config: EvaluationProtocolConfig, graph: StageGraph) -> list[ProtocolMetric]:
    """The metrics that a config names; attributes are read by the landmarks stage of `graph`."""
    from models.metrics import protocol_metrics as rows
    from models.metrics import protocol_sets as sets

    landmarks = next(stage for stage in graph.row_stages() if stage.name == LANDMARKS)
    reads = {column.name for column in landmarks.outputs}
    annotator = "3DDFA-V3 and its mesh" if COEFFICIENTS in reads else "478-point mesh"
    makers: Mapping[MeasureName, Callable[[], Sequence[ProtocolMetric]]] = {
        "identity": lambda: [
            metric
            for judge in config.judges
            for metric in rows.identity_metrics(judge.network, used_in_training=judge.used_in_training)
        ],
        "attributes": lambda: rows.attribute_metrics(
            annotator, landmarks.weights, coefficients=COEFFICIENTS in reads
        ),
        "lpips": lambda: [rows.lpips_metric()],
        "fid_inception": lambda: [sets.fid_inception()],
        "clip_frechet": lambda: [sets.clip_frechet()],
        "clip_frechet_l14": lambda: [sets.clip_frechet_l14()],
    }
    return [metric for measure in config.measures for metric in makers[measure]()]
