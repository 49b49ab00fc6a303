"""Recipes live side by side in one lake: each has its own teacher, triplets, student and swaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from assets.dagster_assets import SHARDS, asset_partitions, build_assets, register_partitions
from assets.planner import Planner
from assets.pseudo_triplets import PseudoTripletsConfig
from assets.swaps import SwapsConfig
from assets.training import TrainingConfig
from pipeline import cli
from pipeline.automation.launching import stale_launches
from pipeline.dagster_sync import report_versions
from pipeline.definitions import build_definitions
from pipeline.profiles import PROFILES, profile
from pipeline.recipes import as_student, condition_label
from resources.lake.errors import LakeError
from resources.lake.forget import forget
from resources.lake.resource import LakeResource
from resources.photos.decoding import decode_upright

COLUMNS = ["pair_id", "swapped"]
OWN = ("release", "teacher", "pseudo_triplets", "triplet_scores", "triplets_release")
OWN += ("student", "swaps", "evaluation", "frontier", "evaluation_protocol")


@pytest.fixture(scope="module")
def two_recipes(smoke_lake: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished lake in which `inpainting` was started and run."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        own = smoke_lake.copy_to(folder)
        before = {name: own.lake.current_artifact(name).digest for name in ("release", "teacher", "student")}
        done = orchard("run", "--recipe", "inpainting", lake=own.lake)
        yield own.lake, done, before


def orchard(*arguments: str, lake: Any) -> dict[str, Any]:
    options = ["--lake", lake.uri, "--profile", "smoke", "--json"]
    ran = CliRunner().invoke(cli.app, [*arguments, *options])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def test_a_second_recipe_is_made_beside_the_first(two_recipes: Any) -> None:
    lake, done, before = two_recipes
    computed = {name for name, count in done["computed_rows"].items() if count}
    assert computed == {"condition_mask", "latents_mask", *(f"{name}@inpainting" for name in OWN)}
    assert lake.recipes() == ["inpainting"]
    for name, digest in before.items():
        assert lake.current_artifact(name).digest == digest
    assert lake.current_artifact("teacher@inpainting").digest != before["teacher"]
    assert orchard("plan", lake=lake)["total_stale_rows"] == 0
    lines = {line["name"]: line for line in orchard("recipes", lake=lake)["recipes"]}
    assert [name for name, line in lines.items() if line["started"]] == ["baseline", "inpainting"]
    assert lines["inpainting"]["changes"] == {"condition.variant": "mask"}


def test_each_recipe_has_its_own_pairs(two_recipes: Any) -> None:
    lake = two_recipes[0]
    pairs = {}
    for name in ("triplets", "triplets@inpainting"):
        rows = lake.table(name).snapshot().scan(["pair_id", "shard", "swapped"]).to_pylist()
        assert {row["shard"].rpartition("-")[0] for row in rows} == {name}
        pairs[name] = {row["pair_id"]: row["swapped"] for row in rows}
    first, second = pairs.values()
    assert first.keys() == second.keys()
    assert all(first[key] != second[key] for key in first)


def test_one_recipe_does_not_make_another_stale(two_recipes: Any) -> None:
    lake = two_recipes[0]
    graph = profile("smoke").graph_of(lake)

    def stale(*forced: str) -> dict[str, str | None]:
        found = stale_launches(Planner(lake, graph, forced=forced), graph.names)
        return {launch.target: launch.partition for launch in found}

    assert stale() == {}
    assert stale("teacher@inpainting") == {"teacher@inpainting": "inpainting"}
    assert stale("teacher") == {"teacher": "baseline"}


def test_a_recipe_is_a_partition_in_dagster(two_recipes: Any, tmp_path: Path) -> None:
    lake = two_recipes[0]
    definitions = build_definitions(lake.uri, "smoke", "cpu")
    graph = profile("smoke").graph_of(lake)
    assert {key.to_user_string() for key in definitions.resolve_all_asset_keys()} == {
        "faces",
        *graph.assets(),
    }
    assert "teacher@inpainting" not in graph.assets()
    partitions = asset_partitions(graph, "student")
    assert partitions is not None
    assert partitions.get_partition_keys() == ["baseline", "inpainting"]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        register_partitions(instance, lake)
        name = SHARDS["triplets"].name
        assert name is not None
        shards = instance.get_dynamic_partitions(name)
        assert {shard.rpartition("-")[0] for shard in shards} == {"triplets", "triplets@inpainting"}
        assert report_versions(instance, lake, graph) > 0
        assert report_versions(instance, lake, graph) == 0
        for asset, partition in (("teacher", "inpainting"), ("pseudo_triplets", "triplets@inpainting-00000")):
            result = dg.materialize(
                build_assets(graph),
                selection=[asset],
                partition_key=partition,
                instance=instance,
                resources={"lake": LakeResource(uri=lake.uri, device="cpu")},
            )
            [event] = result.asset_materializations_for_node(asset)
            assert event.partition == partition
            made_now = event.metadata.get("made_now") or event.metadata["computed"]
            assert not made_now.value, "nothing was stale"


def test_reports_exports_and_swaps_are_of_the_recipe_that_is_named(two_recipes: Any, tmp_path: Path) -> None:
    lake = two_recipes[0]
    models = {}
    for recipe in ("baseline", "inpainting"):
        told = orchard("report", "--recipe", recipe, lake=lake)
        models[recipe] = told["models"]
        assert told["missing"] == []
        assert told["swap_pairs_shown"] == 4
    for name in ("teacher", "student"):
        artifact = lake.current_artifact(f"{name}@inpainting")
        assert models["inpainting"][name] == artifact.metadata["model_id"] != models["baseline"][name]
    assert {path.name for path in Path(lake.uri).glob("*.html")} == {"report.html", "report-inpainting.html"}

    layout = ["--layout", "apple-triplets", "--any-names"]
    orchard("export", str(tmp_path / "own"), *layout, "--recipe", "inpainting", lake=lake)
    rows = lake.table("triplets@inpainting").snapshot().scan(["swapped"]).to_pylist()
    written = {path.read_bytes() for path in (tmp_path / "own").glob("*.png")}
    assert written == {row["swapped"] for row in rows}

    photos = sorted((Path(lake.uri).parent / "world" / "photos").glob("*/*"))
    arguments = ["swap", str(photos[0]), str(photos[-1]), "--consent", "synthetic", "--raw-frame"]
    for recipe, made in models.items():
        out = tmp_path / f"{recipe}.png"
        told = orchard(*arguments, "-o", str(out), "--recipe", recipe, "--method", "teacher", lake=lake)
        assert told["model_id"] == made["teacher"]


def test_the_source_shape_changes_what_the_teacher_sees(two_recipes: Any) -> None:
    lake = two_recipes[0]
    stages = ("release", "teacher", "pseudo_triplets")
    done = orchard("run", *stages, "--recipe", "source_shape", lake=lake)
    assert done["computed_rows"] == {
        f"{name}@source_shape": 6 if name == stages[-1] else 1 for name in stages
    }
    pictures = {
        table: {
            row["pair_id"]: row["swapped"] for row in lake.table(table).snapshot().scan(COLUMNS).to_pylist()
        }
        for table in ("triplets", "triplets@source_shape")
    }
    own, shaped = pictures.values()
    assert own.keys() == shaped.keys()
    differing = sum(np.any(decode_upright(own[key]) != decode_upright(shaped[key])) for key in own)
    assert differing == len(own)


def test_a_partition_of_a_recipe_that_was_never_started_is_refused(two_recipes: Any) -> None:
    graph = profile("smoke").graph_of(two_recipes[0])
    with pytest.raises(KeyError, match="pseudo_triplets@blur"):
        graph.of_asset("pseudo_triplets", "triplets@blur-00000")
    assert graph.of_asset("teacher", "baseline").name == "teacher"
    assert graph.of_asset("landmarks", "shard-00000").name == "landmarks"


def test_forgetting_a_person_reaches_every_recipe(two_recipes: Any) -> None:
    lake = two_recipes[0]
    people = sorted({name.partition("/")[0] for name in named(lake, "triplets@inpainting")})
    report = forget(lake, identities=people[:1])
    assert report.tables["triplets@inpainting"].rows > 0
    assert not any(name.startswith(f"{people[0]}/") for name in named(lake, "triplets@inpainting"))
    tainted = {name for item in report.tainted for name in item.stage.split(", ")}
    assert {"teacher", "teacher@inpainting", "student@inpainting"} <= tainted


def named(lake: Any, table: str) -> set[str]:
    """Every photograph that a table of pairs names."""
    rows = lake.table(table).snapshot().scan(["source_image_id", "target_image_id"]).to_pylist()
    return {row[side] for row in rows for side in ("source_image_id", "target_image_id")}


def test_unknown_recipes_are_refused_with_the_names_there_are(smoke_lake: Any) -> None:
    options = ["--lake", smoke_lake.lake.uri, "--profile", "smoke"]
    ran = CliRunner().invoke(cli.app, ["run", "--recipe", "outpainting", *options])
    assert ran.exit_code == 2
    assert "inpainting" in ran.output
    with pytest.raises(KeyError, match="no recipe 'outpainting'"):
        profile("smoke").graph(["outpainting"])
    with pytest.raises(LakeError, match="cannot name a recipe"):
        smoke_lake.lake.add_recipe("a@b")


@pytest.mark.parametrize("name", PROFILES)
def test_every_recipe_of_a_profile_fits_its_annotation(name: str) -> None:
    parts = PROFILES[name].parts()
    graph = PROFILES[name].graph([recipe.name for recipe in parts.recipes])
    read = {(item.stage, item.via) for item in graph["pseudo_triplets@source_shape"].inputs}
    assert {("landmarks", "source_image_id"), ("landmarks", "target_image_id")} <= read
    assert ("landmarks", "source_image_id") not in {(i.stage, i.via) for i in graph["pseudo_triplets"].inputs}
    for swaps in (graph["swaps"], graph["swaps@source_shape"]):
        labels = [item.label for item in swaps.inputs]
        assert len(labels) == len(set(labels))
        columns = {item.label: set(item.columns) for item in swaps.inputs}
        # the classical swap warps both photographs by their landmarks
        assert {"landmarks_68", "mesh_478"} <= columns["landmarks@source_image_id"]
    assert columns["landmarks@source_image_id"] & {"landmarks_68_3d", "coefficients_257"}
    identity = "source_identity" if name == "flux-krea" else "identity_embedding"
    assert (identity, "source_image_id") in read
    student = graph["student"].config
    assert isinstance(student, TrainingConfig)
    assert student.recipe.needs_identity_network == (name != "flux-schnell")
    needed = {item.stage for item in graph["release@inpainting"].inputs}
    assert "latents_mask" in needed
    assert ("identity_reference" in needed) == (name == "flux-krea")


def test_a_misspelt_change_is_refused() -> None:
    baseline = profile("smoke").parts().recipes[0]
    for changes in ({"landmark": "source_shape"}, {"landmarks": "source"}):
        with pytest.raises(ValidationError, match=next(iter(changes))):
            baseline.varied("other", "Another.", **changes)
    with pytest.raises(ValidationError, match="identity_loss_wieght"):
        as_student(baseline.teacher, identity_loss_wieght=1.0)


@pytest.mark.parametrize("name", PROFILES)
def test_an_ablation_changes_one_thing(name: str) -> None:
    baseline, *ablations = PROFILES[name].parts().recipes
    changes = {recipe.name: set(recipe.changed_from(baseline)) for recipe in ablations}
    assert changes["inpainting"] == {"condition.variant"}
    assert changes["blur"] == {"condition.variant"}
    assert changes["source_shape"] == {"landmarks"}
    assert changes["no_identity_loss"] <= {"teacher.identity_loss_weight", "student.identity_loss_weight"}
    assert ("supervised" in changes) == (name in ("tiny", "smoke"))  # only a world knows exact swaps
    for supervised in (recipe for recipe in ablations if recipe.name == "supervised"):
        own = {"teacher_learns", "teacher.steps", "teacher.identity_loss_start"}
        assert own <= changes["supervised"] <= own | {"teacher.learning_rate"}
        assert supervised.teacher.steps == baseline.teacher.steps + baseline.student.steps
    labels = {condition_label(recipe.condition) for recipe in (baseline, *ablations)}
    squeezed = "downsample4" if name in ("tiny", "smoke") else "downsample8"
    assert labels == {squeezed, "mask", "blur64"}


@pytest.mark.parametrize(("name", "scales"), [("tiny", (8.0, 6.0, 8.0)), ("smoke", (1.0, 1.0, 1.0))])
def test_what_begins_at_an_inverted_target_has_a_guidance_of_its_own(
    name: str, scales: tuple[float, float, float]
) -> None:
    graph = PROFILES[name].graph()
    triplets = graph["pseudo_triplets"].config
    swaps = graph["swaps"].config
    assert isinstance(triplets, PseudoTripletsConfig)
    assert isinstance(swaps, SwapsConfig)
    sampled = (triplets.sampling, swaps.sampling, swaps.inversion)
    assert tuple(sampling.id_guidance_scale for sampling in sampled) == scales
    assert [sampling.inversion for sampling in sampled] == ["noID_trgCond", None, "noID_trgCond"]
