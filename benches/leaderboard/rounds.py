"""One training seed: a lake of its own, the DAG's stages up to both models, and the sweep over guidance."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assets.classical_swaps import MESH_WARP
from assets.diffface_config import DiffFaceSwapsConfig
from assets.evaluation import CODEC_CEILING, COPY_TARGET
from assets.judges import WORLD
from assets.stage import StageGraph
from assets.training import checkpoint_folder
from assets.training_rows import need_artifact
from benches.leaderboard.guided import KEY, guided, made_by, taken_from_another_seed
from benches.leaderboard.photographs import fill_lake
from benches.leaderboard.plan import (
    BASELINE,
    ENTRANTS,
    STUDENT,
    Entrant,
    Plan,
    bench_parts,
    recommended_scale,
    scales_of,
)
from benches.leaderboard.scoring import ANNOTATED, Bench
from benches.leaderboard.values import (
    GRID_FILE,
    SEED_FILE,
    Key,
    Measured,
    SeedRecord,
    is_kept,
    keep,
    seed_folder,
)
from models.worlds.benchmark_portraits import pair_names
from models.worlds.world import WORLD_VERSION
from pipeline.execution import run_stages
from pipeline.graph import Parts, build_graph
from pipeline.progress import LineProgress
from resources.lake.lake import Lake
from resources.lake.recipes import of_recipe
from resources.weights.resolve import resolve

REFERENCES = (COPY_TARGET, CODEC_CEILING, MESH_WARP)
"""Rows that nothing is trained for."""

PROMPTS = "prompt_embeddings"


def run_seed(work: Path, seed: int, plan: Plan, report: Callable[[str], None]) -> SeedRecord:
    """Train and measure everything of a seed; what is there already is not made again.

    Raises StageFault and LakeError as the stages do.
    """
    started = time.monotonic()
    folder, parts = seed_folder(work, seed), bench_parts(plan, seed)
    (folder / SEED_FILE).unlink(missing_ok=True)
    lake = Lake.open(folder / "lake", create=True)
    report(f"seed {seed}: photographs of {plan.people} people, {plan.pairs} pairs of the benchmark")
    fill_lake(lake, work, plan, seed)
    recipes = {entrant.recipe for entrant in ENTRANTS if entrant.recipe is not None}
    for recipe in sorted(recipes - {BASELINE}):
        lake.add_recipe(recipe)
    graph = build_graph(parts, recipes)
    names = {name for name in map(stage_name, ENTRANTS) if name is not None}
    annotated = [*ANNOTATED, *(parts.view(recipe).condition.latents for recipe in recipes)]
    run_needed(lake, graph, [*annotated, PROMPTS, *sorted(names)])
    report(f"seed {seed}: trained after {time.monotonic() - started:.0f} s")
    record = measure_seed(lake, folder, parts, plan, seed, report)
    (folder / SEED_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    report(f"seed {seed}: finished after {time.monotonic() - started:.0f} s")
    return record


def run_needed(lake: Lake, graph: StageGraph, names: list[str]) -> None:
    """Compute what is stale in these stages and all that they depend on."""
    needed = graph.needed_for(names)
    needed.prepare(lake)
    run_stages(lake, needed, needed.names, device="cpu", progress=LineProgress())


def stage_name(entrant: Entrant) -> str | None:
    """The stage of the lake that makes an entrant's adapters."""
    if entrant.stage is None:
        return None
    return of_recipe(entrant.stage, None if entrant.recipe == BASELINE else entrant.recipe)


def pair_id(row: int) -> str:
    """The id in the lake of the benchmark's pair number `row`, from 0."""
    return "__".join(pair_names(row))


def measure_seed(
    lake: Lake, folder: Path, parts: Parts, plan: Plan, seed: int, report: Callable[[str], None]
) -> SeedRecord:
    """Sweep every entrant over its scales; each row is kept as soon as it is measured."""
    bench = Bench(lake, parts, [pair_id(row) for row in range(plan.pairs)], report)
    recommended = recommended_scale(parts)
    embedder = resolve(WORLD.weights).sha256
    same = f"{bench.swapper.base.sha256}, {embedder}, {len(bench.pairs)} pairs, world {WORLD_VERSION}"
    for name in REFERENCES:
        key = Key(name, name, None, None)
        if not is_kept(folder / "values", key, same):
            keep(folder / "values", reference(bench, name, plan.pictures), same)
    if parts.diffface is not None:
        _measure_guided(bench, parts.diffface, folder / "values", same, plan.pictures)
    checkpoints: dict[str, str] = {}
    steps: dict[str, int] = {}
    for entrant in ENTRANTS:
        stage, adapters = stage_name(entrant), None
        if stage is not None:
            adapters = checkpoint_folder(lake, need_artifact(lake, stage))
            checkpoints[entrant.label] = adapters.name
            recipe = parts.recipe(str(entrant.recipe))
            taught = recipe.teacher.steps
            steps[entrant.label] = taught + recipe.student.steps if entrant.method == STUDENT else taught
        made_by = f"{same}, {adapters.name if adapters else 'no adapters'}"
        for scale in scales_of(plan, entrant, recommended):
            key = Key(entrant.name, entrant.method, entrant.conditioning, scale)
            if is_kept(folder / "values", key, made_by):
                continue
            begun = time.monotonic()
            pictures = bench.swap(entrant, scale, adapters)
            swapped = time.monotonic()
            measured = _measured(bench, key, bench.score(pictures), pictures[: plan.pictures])
            keep(folder / "values", measured, made_by)
            report(
                f"{entrant.label} at {scale:g}: rank-1 {measured.values['rank_1_of_20'].mean():.3f}, "
                f"leak {measured.values['leak'].mean():.3f} "
                f"({swapped - begun:.0f} s to swap, {time.monotonic() - swapped:.0f} s to measure)"
            )
    shown = slice(0, plan.pictures)
    np.savez_compressed(
        folder / GRID_FILE,
        source=bench.sources()[shown],
        target=bench.truth.target_NHWC[shown],
        truth=bench.truth.truth_NHWC[shown],
    )
    return SeedRecord(
        seed=seed,
        plan=plan,
        base_sha256=bench.swapper.base.sha256,
        base_file_sha256=resolve(parts.base.transformer).sha256,
        embedder_sha256=embedder,
        recommended_scale=recommended,
        image_size=bench.size,
        left_out=bench.left_out,
        steps=steps,
        checkpoints=checkpoints,
    )


def reference(bench: Bench, name: str, pictures: int) -> Measured:
    """A row that nothing is trained for."""
    key = Key(name, name, None, None)
    if name == MESH_WARP:
        return _of_some(bench, key, *bench.warped(), pictures)
    made = bench.copies() if name == COPY_TARGET else bench.ceilings()
    return _measured(bench, key, bench.score(made), made[:pictures])


def _measure_guided(
    bench: Bench, config: DiffFaceSwapsConfig, folder: Path, same: str, pictures: int
) -> None:
    """Keep DiffFace's row; it is the same in every training seed."""
    made = made_by(same, config)
    if not is_kept(folder, KEY, made) and not taken_from_another_seed(folder, made):
        keep(folder, _of_some(bench, KEY, *guided(bench, config), pictures), made)


def _of_some(bench: Bench, key: Key, made: NDArray[np.uint8], rows: list[int], pictures: int) -> Measured:
    """A row of a method that could not swap every pair; there the target is shown."""
    shown: NDArray[np.uint8] = bench.copies()[:pictures].copy()
    for picture, row in zip(made, rows, strict=True):
        if row < len(shown):
            shown[row] = picture
    return _measured(bench, key, bench.score(made, rows), shown)


def _measured(
    bench: Bench, key: Key, values: dict[str, NDArray[np.float64]], pictures: NDArray[np.uint8]
) -> Measured:
    return Measured(key, tuple(bench.pair_ids), values, pictures)
