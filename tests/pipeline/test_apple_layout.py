"""`orchard export` and `orchard ingest --layout apple`: there and back to the byte; trees made by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from assets.condition import row_frame
from assets.planner import Planner
from assets.runner import run_shard, run_shard_stages
from assets.stage import RowStage
from models.faces.condition import ConditionRecipe, condition_image
from models.faces.constants import PALETTE
from models.faces.parsing import decode_codes, unpack_mask
from models.worlds.portraits import write_portraits
from pipeline import cli
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright
from resources.photos.layouts import detect_layout, scan

ANNOTATION = ("landmarks", "iris", "masks", "aesthetics", "identity_embedding")
SIZE = 256


def orchard(*arguments: object) -> dict:
    done = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def columns(lake: Lake, names: list[str]) -> dict[str, dict]:
    wanted = ["image_id", *names]
    rows = lake.faces.snapshot().scan(wanted).select(wanted).to_pylist()
    return {row["image_id"]: row for row in rows}


def run(lake: Lake, *names: str) -> int:
    """Run stages over all shards; returns the number of rows computed."""
    graph = profile("smoke").graph()
    computed = 0
    for name in names:
        stage = graph[name]
        assert isinstance(stage, RowStage)
        for shard in lake.faces.snapshot().shards():
            computed += run_shard(lake, graph, stage, shard, device="cpu", report=lambda text: None).computed
    return computed


@dataclass(frozen=True)
class Annotated:
    """A lake with every annotation of three rendered photographs, and its export."""

    lake: Lake
    tree: Path


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Annotated:
    folder = tmp_path_factory.mktemp("apple")
    write_portraits(folder / "world", identities=2, photos=2, size=SIZE, swap_pairs=1, held_out=2)
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "world" / "photos", shard_size=3, consent=Consent.SYNTHETIC)
    profile("smoke").graph().prepare(lake)
    run(lake, *ANNOTATION)
    orchard("export", folder / "tree", "--lake", lake.uri, "--profile", "smoke")
    return Annotated(lake, folder / "tree")


def import_tree(root: Path, lake: Path) -> dict:
    return orchard("ingest", root, "--lake", lake, "--layout", "apple", "--profile", "smoke")


def test_the_tree_is_the_one_apples_scripts_read(annotated: Annotated) -> None:
    rows = columns(annotated.lake, ["image", "landmarks_68", "iris_10", "parsing", "visible_face"])
    scores = json.loads((annotated.tree / "score.json").read_text())
    assert list(scores) == sorted(rows)
    for image_id, row in rows.items():
        person, stem = image_id.split("/")
        folder = annotated.tree / person
        photo = np.asarray(Image.open(folder / f"{stem}.jpg").convert("RGB"))
        landmarks = np.array(row["landmarks_68"], np.float32).reshape(68, 2)
        iris = np.array(row["iris_10"], np.float32).reshape(10, 2)
        dots = np.zeros((SIZE, SIZE, 3), np.uint8)
        for x, y in np.floor(landmarks).astype(int).tolist():
            cv2.circle(dots, (x, y), 1, (0, 255, 0), 2)
        np.testing.assert_array_equal(Image.open(folder / "3dmm" / stem / f"{stem}_ldm68.png"), dots)
        discs = Image.new("RGB", (SIZE, SIZE))
        for x, y in np.floor(iris).astype(int).tolist():
            ImageDraw.Draw(discs).ellipse((x - 2, y - 2, x + 2, y + 2), fill=(255, 0, 0))
        np.testing.assert_array_equal(Image.open(folder / "iris" / f"{stem}.png"), discs)
        codes = decode_codes(row["parsing"], (SIZE, SIZE))
        visible = unpack_mask(row["visible_face"], (SIZE, SIZE))
        np.testing.assert_array_equal(Image.open(folder / "segmap" / f"{stem}.png"), np.array(PALETTE)[codes])
        cut = np.asarray(Image.open(folder / "mask_intersection" / f"{stem}.png"))
        np.testing.assert_array_equal(cut, np.where((codes > 0) & visible, 255, 0)[..., None].repeat(3, 2))
        condition = folder / ConditionRecipe().folder / f"{stem}.png"
        expected = condition_image(
            photo, cut[..., 0] > 0, np.zeros_like(visible), landmarks, iris, ConditionRecipe()
        )
        np.testing.assert_array_equal(Image.open(condition), expected)
        assert np.load(folder / "identity_embedding" / f"{stem}.npy").shape == (128,)


def test_export_import_export_is_identical_to_the_byte(annotated: Annotated, tmp_path: Path) -> None:
    report = import_tree(annotated.tree, tmp_path / "lake")
    assert report["added"] == 4
    assert report["annotations"]["exact"] == dict.fromkeys(ANNOTATION, 4)
    assert not report["annotations"]["left_aside"]
    again = orchard("export", tmp_path / "tree", "--lake", tmp_path / "lake", "--profile", "smoke")
    assert tree(tmp_path / "tree") == tree(annotated.tree)
    assert again["photographs"]["condition"] == 4
    assert again["unchanged"] == 0
    assert (
        orchard("export", tmp_path / "tree", "--lake", tmp_path / "lake", "--profile", "smoke")["written"]
        == 0
    )
    names = ["landmarks_68", "mesh_478", "parsing", "aesthetic_score", "identity_embedding"]
    assert columns(Lake.open(tmp_path / "lake"), names) == columns(annotated.lake, names)


def test_imported_rows_stand_until_their_photograph_changes(annotated: Annotated, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(annotated.tree, root)
    import_tree(root, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    assert run(lake, *ANNOTATION) == 0
    graph = profile("smoke").graph()
    stages = [stage for stage in graph.row_stages("faces") if stage.name in (*ANNOTATION, "condition")]
    done = run_shard_stages(lake, graph, stages, lake.faces.snapshot().shards()[0], device="cpu")
    assert {name: result.computed for name, result in done.items() if result.computed} == {"condition": 4}
    first = sorted(columns(lake, []))[0]
    options = ("--lake", lake.uri, "--profile", "smoke")
    told = {item["stage"]: item for item in orchard("plan", "--explain", first, *options)["findings"]}
    person, stem = first.split("/")
    assert told["landmarks"] == {
        "stage": "landmarks",
        "state": "fresh",
        "why": [f"imported from {person}/orchard/{stem}.json"],
    }
    whole = orchard("plan", "--explain", "masks", *options)["findings"][0]
    assert "imported, not computed: 4 rows" in whole["why"]
    assert import_tree(root, tmp_path / "lake")["annotations"]["kept"] == dict.fromkeys(ANNOTATION, 4)

    photo = np.asarray(Image.open(root / person / f"{stem}.jpg").convert("RGB"))
    Image.fromarray(photo[:, ::-1]).save(root / person / f"{stem}.jpg")
    report = import_tree(root, tmp_path / "lake")
    assert report["replaced"] == 1
    assert len(report["annotations"]["left_aside"]) == 1
    assert "another photograph" in report["annotations"]["left_aside"][0]
    told = orchard("plan", "--explain", first, *options)["findings"]
    assert any("its photograph has changed since" in why for item in told for why in item["why"])
    assert Planner(lake, graph).plan(graph["landmarks"]).stale_rows == 1
    assert run(lake, "landmarks") == 1

    iris = graph["iris"]
    assert isinstance(iris, RowStage)
    shard = lake.faces.snapshot().shards()[0]
    assert run_shard(lake, graph, iris, shard, device="cpu", force=True).computed == 4
    versions = {row["iris_state"]["code_version"] for row in columns(lake, ["iris_state"]).values()}
    assert versions == {iris.code_version}


def test_a_picture_that_was_edited_wins_over_the_exact_values(annotated: Annotated, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(annotated.tree, root)
    first = sorted(columns(annotated.lake, []))[0]
    person, stem = first.split("/")
    path = root / person / "iris" / f"{stem}.png"
    shifted = np.roll(np.asarray(Image.open(path)), 3, axis=1)
    Image.fromarray(shifted).save(path)
    scores = json.loads((root / "score.json").read_text())
    scores[first]["aes"] = 9.25
    (root / "score.json").write_text(json.dumps(scores))
    report = import_tree(root, tmp_path / "lake")["annotations"]
    assert report["pictures"] == {"iris": 1, "aesthetics": 1}
    names = ["iris_10", "aesthetic_score"]
    row, old = (columns(lake, names)[first] for lake in (Lake.open(tmp_path / "lake"), annotated.lake))
    assert row["aesthetic_score"] == 9.25
    moved = np.array(row["iris_10"]) - np.array(old["iris_10"])
    np.testing.assert_allclose(moved.reshape(10, 2).mean(axis=0), [3, 0], atol=0.6)


def hand_made(source: Path, root: Path, scores: bool = True) -> None:
    """What APPLE's scripts would leave: photographs and pictures, and nothing of ours."""
    shutil.copytree(
        source, root, ignore=shutil.ignore_patterns("orchard", "identity_embedding", "*_intersection")
    )
    for cut in source.glob("*/mask_intersection"):
        shutil.copytree(cut, root / cut.relative_to(source))
    if not scores:
        (root / "score.json").unlink()


def test_a_tree_made_by_hand_is_read_from_its_pictures(annotated: Annotated, tmp_path: Path) -> None:
    hand_made(annotated.tree, tmp_path / "tree")
    assert detect_layout(tmp_path / "tree")[0] == "apple"
    assert sorted(photo.image_id for photo in scan(tmp_path / "tree")) == sorted(columns(annotated.lake, []))
    report = import_tree(tmp_path / "tree", tmp_path / "lake")
    assert report["annotations"]["pictures"] == dict.fromkeys(ANNOTATION[:4], 4)
    lake = Lake.open(tmp_path / "lake")
    assert run(lake, "landmarks", "iris", "masks", "aesthetics") == 0
    assert run(lake, "identity_embedding", "condition") == 8
    names = ["image", "landmarks_68", "iris_10", "parsing", "visible_face", "mesh_478", "landmarks_state"]
    theirs = columns(annotated.lake, names)
    for image_id, row in columns(lake, names).items():
        assert row["mesh_478"] is None
        assert "dots told apart" in row["landmarks_state"]["detail"]
        truth = np.array(theirs[image_id]["landmarks_68"]).reshape(68, 2)
        found = np.array(row["landmarks_68"]).reshape(68, 2)
        assert np.median(np.abs(found - truth)) <= 0.5
        assert row["parsing"] == theirs[image_id]["parsing"]
        ours = row_frame(_arrays(row), SIZE)
        whole = row_frame(_arrays(theirs[image_id]), SIZE)
        np.testing.assert_array_equal(ours.face_mask, whole.face_mask)
    # drawn again from what was read, every condition image is the one the tree holds
    orchard("export", tmp_path / "again", "--lake", lake.uri, "--profile", "smoke")
    for path in tmp_path.joinpath("again").glob(f"*/{ConditionRecipe().folder}/*.png"):
        other = annotated.tree / path.relative_to(tmp_path / "again")
        np.testing.assert_array_equal(Image.open(path), Image.open(other))


def _arrays(row: dict) -> dict:
    points = {name: np.array(row[name], np.float32) for name in ("landmarks_68", "iris_10")}
    return row | points | {"image": decode_upright(row["image"])}


def test_dots_are_left_aside_where_somebody_needs_the_mesh(annotated: Annotated, tmp_path: Path) -> None:
    hand_made(annotated.tree, tmp_path / "tree", scores=False)
    report = import_tree(tmp_path / "tree", tmp_path / "lake")["annotations"]
    assert report["pictures"] == {"iris": 4, "masks": 4}
    assert "which aesthetics needs" in report["left_aside"][0]
    assert run(Lake.open(tmp_path / "lake"), "landmarks", "aesthetics") == 8


def test_pictures_that_fit_nothing_are_left_aside_with_the_reason(
    annotated: Annotated, tmp_path: Path
) -> None:
    hand_made(annotated.tree, tmp_path / "tree")
    first, second, third, _ = sorted(columns(annotated.lake, []))
    for image_id, kind, picture in (
        (first, "iris", np.zeros((SIZE, SIZE, 3), np.uint8)),
        (second, "segmap", np.full((SIZE, SIZE, 3), 77, np.uint8)),
        (third, "segmap", np.zeros((9, SIZE, 3), np.uint8)),
    ):
        person, stem = image_id.split("/")
        Image.fromarray(picture).save(tmp_path / "tree" / person / kind / f"{stem}.png")
    report = import_tree(tmp_path / "tree", tmp_path / "lake")["annotations"]
    assert report["pictures"] == {"landmarks": 1, "iris": 3, "masks": 2, "aesthetics": 4}
    text = "\n".join(report["left_aside"])
    for said in (
        "it holds no dots",
        "(77, 77, 77) at (0, 0) is no class",
        "is 256x9, the photograph 256x256",
    ):
        assert said in text
    (tmp_path / "tree" / "score.json").write_text("[1]")
    done = CliRunner().invoke(cli.app, ["ingest", str(tmp_path / "tree"), "--lake", str(tmp_path / "lake")])
    assert "is no table of scores" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "ffhq"], "no layout 'ffhq' to export"),
        (["--stage", "latents"], "no files of latents"),
        (["--condition", "iris"], "names no condition image"),
    ],
)
def test_what_cannot_be_exported_is_named(
    annotated: Annotated, tmp_path: Path, arguments: list[str], message: str
) -> None:
    options = ["export", str(tmp_path / "out"), "--lake", annotated.lake.uri, *arguments]
    done = CliRunner().invoke(cli.app, options)
    assert done.exit_code != 0
    assert message in done.output
    assert not (tmp_path / "out").exists()
