"""Read a lake into a report's values. Nothing is computed anew, nothing is written, no model is loaded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from assets.condition import ConditionStageConfig
from assets.curves import loss_curve
from assets.evaluation import EvaluationConfig
from assets.planner import Planner
from assets.previews import stage_preview
from assets.recipe_view import DEFAULT_VIEW, RecipeView
from assets.stage import RowStage, StageGraph
from models.swap.training_recipe import TrainingRecipe
from pipeline.commands.plan import stage_status
from pipeline.report import data as report
from pipeline.report.frontier import frontier_part
from pipeline.report.protocol import protocol_part
from pipeline.report.swap_rows import swap_rows
from pipeline.report.wording import METHODS, METRICS, in_order, method, metric
from resources.lake.consent import GENERATIVE_CONSENTS, Consent
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import base_name
from resources.lake.schema import FACES_STAGE
from resources.photos.marking import DIGITAL_SOURCE_TYPE
from resources.photos.reasons import Reason

MANIFEST_NAME = "manifest.json"
"""The file beside a checkpoint's weights that says what it is; `models.swap.checkpoint` writes it."""

PHOTOGRAPHS = "Photographs as they were ingested, upright."

UNITS = {"faces": "photographs", "triplets": "triplets", "swaps": "swaps", "diffface_swaps": "swaps"}
"""What the rows of each table are."""


def collect(
    lake: Lake,
    graph: StageGraph,
    *,
    profile: str,
    description: str = "",
    view: RecipeView = DEFAULT_VIEW,
) -> report.ReportData:
    """Everything that a report of one recipe shows; parts that are not made yet are empty or None.

    `graph` is the profile's, its columns made ready in the lake (`graph.prepare`); `profile` and
    `description` are its name and one line about it.
    """
    planner = Planner(lake, graph)
    config = graph[view.condition.condition].config
    if not isinstance(config, ConditionStageConfig):
        raise TypeError(f"the stage condition is configured by a {type(config).__name__}")
    status = stage_status(lake, graph)
    consents = Counter(planner.snapshot("faces").scan(["consent"])["consent"].to_pylist())
    rows, pairs = swap_rows(planner, config, view)
    triplets = lake.current_artifact(view.own("triplets_release"))
    return report.ReportData(
        lake=lake.uri.rstrip("/").rsplit("/", 1)[-1],
        profile=profile,
        profile_description=description,
        orchard_version=package_version("orchard-faces"),
        size=config.size,
        photographs=status["rows"],
        consents=tuple(sorted(consents.items())),
        generative_consents=tuple(sorted(set(consents) & {item.value for item in GENERATIVE_CONSENTS})),
        stages=tuple(_stage_line(graph, name, line) for name, line in status["stages"].items()),
        previews=_previews(planner),
        stages_without_picture=tuple(
            stage.name for stage in graph.row_stages("faces") if stage.preview is None
        ),
        release=_release(planner, view),
        triplets=int(triplets.metadata["triplets"]) if triplets else None,
        checkpoints=tuple(
            _checkpoint(planner, artifact)
            for name in ("teacher", "student")
            if (artifact := lake.current_artifact(view.own(name))) is not None
        ),
        evaluation=_evaluation(planner, view),
        frontier=frontier_part(planner, view),
        protocol=protocol_part(planner, view),
        swaps=rows,
        swap_pairs=pairs,
        digital_source_type=DIGITAL_SOURCE_TYPE,
    )


def _stage_line(graph: StageGraph, name: str, line: Mapping[str, Any]) -> report.StageLine:
    if name == FACES_STAGE:
        description, unit = "Photographs on disk as rows of the lake.", "photographs"
    else:
        stage = graph[name]
        description = _plain(stage.description)
        unit = UNITS[base_name(stage.table)] if (isinstance(stage, RowStage)) else "result"
    reasons = tuple(
        report.ReasonCount(reason, count, Reason(reason).meaning if reason in list(Reason) else "")
        for reason, count in line["reasons"].items()
    )
    return report.StageLine(
        name, description, unit, line["ok"], line["quarantined"], line["pending"], reasons
    )


def _previews(planner: Planner) -> tuple[report.AnnotationPreview, ...]:
    """Tiles of the photographs and of every annotation stage that can be drawn.

    Beside the first shard stands the first one of photographs that are annotated only, if there is such a
    shard: real portraits beside rendered ones.
    """
    faces = planner.table("faces")
    consents = planner.snapshot("faces").scan(["consent"])["consent"].to_pylist()
    usable = {
        shard
        for shard, consent in zip(faces.shards, consents, strict=True)
        if consent != Consent.ANNOTATION_ONLY
    }
    drawn = [stage for stage in planner.graph.row_stages("faces") if stage.preview is not None]
    captions = {FACES_STAGE: PHOTOGRAPHS, **{stage.name: _plain(stage.description) for stage in drawn}}
    found = []
    for name, caption in captions.items():
        shards = sorted(set(faces.shards[faces.stages[name].ok].tolist()))
        shown = dict.fromkeys([*shards[:1], *[shard for shard in shards if shard not in usable][:1]])
        pngs = {shard: stage_preview(planner.lake, planner.graph, name, shard) for shard in shown}
        pictures = tuple(
            report.Picture(png, f"{name}: {caption}", f"the first photographs of {shard}")
            for shard, png in pngs.items()
            if png is not None
        )
        if pictures:
            found.append(report.AnnotationPreview(name, caption, pictures))
    return tuple(found)


def _plain(description: str) -> str:
    """A stage's description without the backticks of its Markdown."""
    return description.replace("`", "")


def _release(planner: Planner, view: RecipeView) -> report.Release | None:
    artifact = planner.lake.current_artifact(view.own("release"))
    if artifact is None:
        return None
    meta = artifact.metadata
    excluded = ", ".join(f"{reason}: {count}" for reason, count in sorted(meta["excluded"].items()))
    return report.Release(
        tag=meta["tag"],
        version=meta["version"],
        day=_committed_on(planner.lake, meta["version"]),
        facts=(
            ("photographs to train on", str(meta["training_rows"])),
            ("people to train on", str(meta["training_people"])),
            ("people held out for evaluation", str(meta["held_out_people"])),
            ("photographs left out", excluded or "none"),
            ("triplet pairs drawn", str(meta["triplets"])),
            ("swap pairs", str(meta["swap_pairs"])),
        ),
        outdated=_outdated(planner, artifact.stage),
    )


def _committed_on(lake: Lake, version: int) -> date | None:
    """Day (UTC) on which a version of the photographs was committed; None when it has been cleaned up."""
    try:
        versions = lake.faces.snapshot(version).dataset.versions()
    except LakeError:
        return None
    days = [entry["timestamp"].astimezone(UTC).date() for entry in versions if entry["version"] == version]
    return days[0] if days else None


def _kept(lake: Lake, location: str, *parts: str) -> Path | None:
    """A file of the lake, by the location of itself or of its folder; None when it was cleaned away."""
    try:
        path = lake.fetch(location).joinpath(*parts)
    except LakeError:
        return None
    return path if path.is_file() else None


def _checkpoint(planner: Planner, artifact: Artifact) -> report.Checkpoint:
    meta = artifact.metadata
    facts = [
        ("steps", f"{meta['steps']}, {meta['samples']} samples"),
        ("loss", f"{meta['first_loss']:.4f} in the first tenth, {meta['last_loss']:.4f} in the last"),
        ("training time", f"{meta['training_seconds']:.0f} s"),
    ]
    note, base_sha256, curve = "", None, None
    manifest_path = _kept(planner.lake, str(artifact.location), MANIFEST_NAME)
    if manifest_path is not None:
        # not through models.swap.checkpoint, which brings torch, diffusers and peft: seconds for two values
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        base_sha256 = manifest["base_sha256"]
        recipe = TrainingRecipe.model_validate(manifest["recipe"])
        facts.append(
            (
                "recipe",
                f"batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}, seed {recipe.seed}",
            )
        )
    else:
        note = "Its folder is gone from the lake. "
    if _kept(planner.lake, meta["losses"]) is not None:
        curve = report.Picture(
            loss_curve(planner.lake, artifact), f"training loss of the {base_name(artifact.stage)}"
        )
    else:
        note += "The record of its losses is gone from the lake."
    return report.Checkpoint(
        stage=base_name(artifact.stage),
        model_id=meta["model_id"],
        base_sha256=base_sha256,
        facts=tuple(facts),
        curve=curve,
        outdated=_outdated(planner, artifact.stage),
        note=note.strip(),
    )


def _evaluation(planner: Planner, view: RecipeView) -> report.Evaluation | None:
    artifact = planner.lake.current_artifact(view.own("evaluation"))
    if artifact is None:
        return None
    digest = artifact.digest.hex()
    stored = planner.lake.evaluations.snapshot().scan(
        ["method", "metric", "mean", "low", "high", "count"], filter=f"evaluation = '{digest}'"
    )
    cells = {
        (row["method"], row["metric"]): report.MetricCell(row["mean"], row["low"], row["high"], row["count"])
        for row in stored.to_pylist()
    }
    methods = in_order({key for key, _ in cells}, METHODS)
    metrics = in_order({key for _, key in cells}, METRICS)
    config = planner.graph[artifact.stage].config
    judges = config.judges if isinstance(config, EvaluationConfig) else ()
    trained = {
        role
        for name in ("identity_embedding", view.own("teacher"), view.own("student"))
        for role in planner.graph[name].weights
    }
    return report.Evaluation(
        digest=digest,
        metrics=tuple(metric(key) for key in metrics),
        rows=tuple(
            report.MetricRow(method(row), tuple(cells.get((row, column)) for column in metrics))
            for row in methods
        ),
        outdated=_outdated(planner, artifact.stage),
        training_judges=tuple(judge.name for judge in judges if judge.weights in trained),
        other_judges=tuple(judge.name for judge in judges if judge.weights not in trained),
        not_measured=str(artifact.metadata.get("not_measured", "")),
    )


def _outdated(planner: Planner, stage: str) -> bool:
    """Whether something that the current artifact was made from has changed since."""
    plan = planner.artifact(stage)
    return plan.stale or plan.waiting
