"""The recipe `supervised`: a teacher that learns a world's exact swaps, of people who are not evaluated."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assets.exact_swaps import exact_answers
from assets.planner import Planner
from assets.stage import StageGraph
from models.faces.frame import square_picture
from models.worlds.portraits import PortraitSet, SwapPair, parse_portraits
from pipeline.execution import Progress, run_stages
from pipeline.profiles import profile
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.lake.pairs import pinned_pairs, store_swap_pairs
from resources.photos.world_parameters import PairParameters

TEACHER = "teacher@supervised"
SIDE = 32


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def pair_row(world: PortraitSet, source: str, target: str) -> dict[str, Any]:
    """A pair for training of which the parameters are known and no picture was written."""
    identity, attributes = world.parameters(source)[0], world.parameters(target)[1]
    known = PairParameters(
        world_version=world.world.world_version,
        source_identity=tuple(identity.values[0].tolist()),
        target_identity=tuple(world.parameters(target)[0].values[0].tolist()),
        attributes=tuple(attributes.values[0].tolist()),
    )
    return {
        "pair_id": f"{source}__{target}",
        "source_image_id": source,
        "target_image_id": target,
        "truth": None,
        "world": known.model_dump_json(),
        "use": "training",
    }


def list_more(lake: Lake, rows: list[dict[str, Any]]) -> None:
    names = ["source_image_id", "target_image_id", "truth", "world", "use"]
    store_swap_pairs(lake, [*pinned_pairs(lake, "evaluation", names), *rows])


@pytest.fixture(scope="module")
def graph() -> StageGraph:
    return profile("smoke").graph(["supervised"])


@pytest.fixture(scope="module")
def world(smoke_lake: Any) -> PortraitSet:
    return parse_portraits(smoke_lake.folder)


def test_an_answer_is_its_picture_or_rendered_from_its_parameters(world: PortraitSet) -> None:
    source, target = "w000000/0001_01", "w000001/0002_01"
    row = pair_row(world, source, target)
    truth = world.render_truths([SwapPair(source=source, target=target, truth="")])[0]
    written = io.BytesIO()
    Image.fromarray(truth).save(written, "PNG")
    shown = {**row, "truth": written.getvalue(), "world": None}
    pictures = exact_answers([shown, row, shown], SIDE)
    assert (pictures[0] == square_picture(truth, SIDE)).all()
    assert (pictures[2] == pictures[0]).all()
    off = np.abs(pictures[1].astype(float) - pictures[0]).mean()
    other = square_picture(world.render_photos([target])[0], SIDE)
    assert off < 2.5
    assert off < np.abs(other.astype(float) - pictures[0]).mean() / 2
    with pytest.raises(LakeError, match="names no picture"):
        exact_answers([{**row, "world": None}], SIDE)
    old = row["world"].replace(f'"{world.world.world_version}"', '"0"')
    with pytest.raises(LakeError, match="version 0 of the world"):
        exact_answers([{**row, "world": old}], SIDE)


def test_the_teacher_learns_the_listed_swaps_and_nobody_who_is_evaluated(
    smoke_lake: Any, world: PortraitSet, graph: StageGraph, tmp_path: Path
) -> None:
    lake = smoke_lake.copy_to(tmp_path).lake
    lake.add_recipe("supervised")
    graph.prepare(lake)
    with pytest.raises(LakeError, match="none of 0 pairs that are listed for training"):
        run_stages(lake, graph, ["release@supervised", TEACHER], device="cpu")
    usable = set(lake.faces.snapshot().scan(["image_id", "condition_state.status"])["image_id"].to_pylist())
    photos = [image_id for image_id in world.image_ids if image_id in usable]
    trained = [image_id for image_id in photos if image_id < "w000003"]
    rows = [
        pair_row(world, source, target)
        for source in trained[::4]
        for target in trained
        if source.split("/")[0] != target.split("/")[0]
    ]
    held_out = pair_row(world, trained[0], next(name for name in photos if name > "w000003"))
    before = {
        name: Planner(lake, graph).artifact(name).stale for name in ("release", "teacher", "evaluation")
    }
    list_more(lake, [*rows, held_out])
    told = Told()
    run_stages(lake, graph, [TEACHER], device="cpu", progress=told)
    artifact = lake.current_artifact(TEACHER)
    assert artifact is not None
    assert artifact.code_version == "1-exact_swaps"
    assert any(
        f"of {len(rows) + 1} pairs for training are not of this release" in line for line in told.lines
    )
    plan = Planner(lake, graph)
    assert not plan.artifact(TEACHER).stale
    # pairs for training are no pairs to swap: nothing else became stale, nobody else is held out
    assert {name: plan.artifact(name).stale for name in before} == before
    release = lake.current_artifact("release@supervised")
    assert release is not None
    assert release.metadata["held_out_people"] == 2
    assert release.metadata["swap_pairs"] == 4
    list_more(lake, rows[1:])
    assert Planner(lake, graph).artifact(TEACHER).why == ("input:extra_content",)
