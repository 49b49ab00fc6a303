"""`orchard export --layout apple-triplets`: read back by a loader as APPLE's, and safe to repeat."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from assets.apple_triplets import export_triplets, picture_stem
from assets.condition import ConditionStageConfig, condition_stage
from assets.stage import Input, NoConfig, Row, RowOutcome, RowStage, StageGraph
from assets.swapping import SOURCE, TARGET, marked_row
from assets.triplet_scores import SCORES
from assets.triplets_release import TripletsReleaseConfig, triplets_release_stage
from models.faces.condition import ConditionRecipe, condition_image
from models.faces.parsing import encode_codes, pack_mask
from pipeline import cli
from pipeline.execution import run_stages
from resources.lake.consent import Consent
from resources.lake.errors import LakeError
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.pairs import sync_pairs
from resources.lake.schema import TRIPLETS_SCHEMA, Column
from resources.photos.marking import DIGITAL_SOURCE_TYPE, read_mark
from resources.photos.reasons import Reason, RowError

SIDE, FRAME = 64, 32
PEOPLE = ("n000002", "n000010", "n000300")
STEM = "0001_01"
FACE = np.zeros((SIDE, SIDE), np.uint8)
cv2.ellipse(FACE, (32, 32), (18, 24), 0, 0, 360, 1, -1)
LANDMARKS = np.stack(
    [32 + 18 * np.cos(np.linspace(0, 6, 68)), 32 + 24 * np.sin(np.linspace(0, 6, 68))], axis=1
)
IRIS = np.array([(25.0, 28.0)] * 5 + [(39.0, 28.0)] * 5)


def swapped(row: Row) -> RowOutcome:
    if row[SOURCE].startswith(PEOPLE[2]) and row[TARGET].startswith(PEOPLE[0]):
        return RowError(Reason.NON_FINITE, "made to fail")
    number = sum(row["pair_id"].encode()) % 200
    picture = np.full((FRAME, FRAME, 3), number, np.uint8)
    return {"swapped": marked_row(picture, row, "model", "pseudo_triplets")}


def scores(row: Row) -> RowOutcome:
    if row["pair_id"].startswith(PEOPLE[1]):
        return {"face_found": False, "face_reason": "no_face", **dict.fromkeys(c.name for c in SCORES)}
    return {"face_found": True, "face_reason": None, **dict.fromkeys((c.name for c in SCORES), 5.43)}


@pytest.fixture(scope="module")
def graph() -> StageGraph:
    """The stages whose columns an export reads, computed from nothing."""

    def stage(
        name: str, inputs: Sequence[Input], outputs: Sequence[Column], compute: Callable, table: str = "faces"
    ) -> RowStage:
        return RowStage(
            name=name,
            code_version="1",
            description="",
            config=NoConfig(),
            table=table,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            load=lambda context: lambda rows: [compute(row) for row in rows],
        )

    photo = [Input("faces", ("consent",))]
    points = {"landmarks": ("landmarks_68", LANDMARKS), "iris": ("iris_10", IRIS)}
    masks = {"parsing": encode_codes(FACE), "visible_face": pack_mask(FACE > 0)}
    ends = [Input("faces", ("consent",), via=SOURCE), Input("faces", ("consent",), via=TARGET)]
    return StageGraph(
        (
            *(
                stage(
                    name,
                    photo,
                    [Column(column, pa.list_(pa.float32(), values.size), quantum=1 / 16)],
                    lambda row, column=column, values=values: {column: values.ravel()},
                )
                for name, (column, values) in points.items()
            ),
            stage("masks", photo, [Column(name, pa.binary()) for name in masks], lambda row: masks),
            condition_stage(ConditionStageConfig(size=FRAME)),
            stage(
                "pseudo_triplets", ends, [Column("swapped", pa.binary(), picture=True)], swapped, "triplets"
            ),
            stage(
                "triplet_scores",
                [Input("pseudo_triplets", ("swapped",))],
                [
                    Column("face_found", pa.bool_()),
                    Column("face_reason", pa.string(), optional=True),
                    *SCORES,
                ],
                scores,
                "triplets",
            ),
            triplets_release_stage(TripletsReleaseConfig(train_size=2)),
        )
    )


def new_lake(folder: Path, graph: StageGraph, people: Sequence[str] = PEOPLE) -> Lake:
    for number, person in enumerate(people):
        (folder / "vgg" / person).mkdir(parents=True)
        Image.new("RGB", (SIDE, SIDE), (60 * number, 90, 30)).save(folder / "vgg" / person / f"{STEM}.jpg")
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "vgg", consent=Consent.SYNTHETIC)
    ids = [f"{person}/{STEM}" for person in people]
    pairs = [{"pair_id": f"{a}__{b}", SOURCE: a, TARGET: b} for a, b in itertools.permutations(ids, 2)]
    sync_pairs(lake.triplets, pairs, TRIPLETS_SCHEMA, 4, "triplets")
    graph.prepare(lake)
    run_stages(lake, graph, graph.names, device="cpu")
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, graph: StageGraph) -> Lake:
    return new_lake(tmp_path_factory.mktemp("vgg"), graph)


def student_loader(folder: Path, photographs: Path) -> Iterator[tuple[Path, Path, str]]:
    """Picture, ground truth and donor, found as APPLE's student data set finds them: by names alone."""
    for path in sorted(folder.glob("*.png")):
        found = re.match(r"(n\d{6})_(\d{4}_\d{2})_(n\d{6})_(\d{4}_\d{2})\.png$", path.name)
        if found is None:
            raise ValueError(path.name)
        donor, _, person, stem = found.groups()
        yield path, photographs / person / f"{stem}.jpg", donor


def tree(root: Path) -> Mapping[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_apples_student_loader_reads_the_folder(lake: Lake, graph: StageGraph, tmp_path: Path) -> None:
    report = export_triplets(lake, graph, tmp_path / "out")
    assert report.as_json() == {
        "triplets": 5,
        "written": 12,  # pictures, grids, pairs.csv and score.json
        "unchanged": 0,
        "scored": 3,
        "foreign_names": 0,
        "left_out": {"not ok or not fresh": 1},
        "others_there": 0,
    }
    found = list(student_loader(tmp_path / "out", Path(lake.uri).parent / "vgg"))
    stored = lake.triplets.snapshot().find(
        [f"{donor}/{STEM}__{truth.parent.name}/{STEM}" for _, truth, donor in found], ["swapped"]
    )
    assert len(stored) == len(found) == 5
    for path, truth, donor in found:
        assert truth.is_file()
        key = f"{donor}/{STEM}__{truth.parent.name}/{STEM}"
        assert path.read_bytes() == stored[key]["swapped"]
    table = json.loads((tmp_path / "out" / "score.json").read_text())
    donors = sorted(name.split("_")[0] for name in table)
    assert donors == [PEOPLE[0], PEOPLE[0], PEOPLE[2]]
    assert set(table) < {path.stem for path, _, _ in found}
    assert {score["aes"] for score in table.values()} == {5.43}
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert {row["picture"] for row in listed} == {path.name for path, _, _ in found}
    for row in listed:
        assert picture_stem(row["source"], row["target"]) == (row["picture"].removesuffix(".png"), True)


def test_grids_show_source_target_condition_and_swap_and_are_marked(
    lake: Lake, graph: StageGraph, tmp_path: Path
) -> None:
    export_triplets(lake, graph, tmp_path)
    name = f"{PEOPLE[0]}_{STEM}_{PEOPLE[1]}_{STEM}"
    data = (tmp_path / "grid" / f"{name}.jpg").read_bytes()
    mark = read_mark(data)
    assert mark is not None
    assert mark == read_mark((tmp_path / f"{name}.png").read_bytes())
    assert (mark.source_image_id, mark.target_image_id) == (f"{PEOPLE[0]}/{STEM}", f"{PEOPLE[1]}/{STEM}")
    assert DIGITAL_SOURCE_TYPE.encode() in data
    grid = np.asarray(Image.open(tmp_path / "grid" / f"{name}.jpg")).astype(int)
    assert grid.shape == (512, 2048, 3)
    source, target, condition, result = np.split(grid, 4, axis=1)
    assert abs(source[8, 8] - (0, 90, 30)).max() <= 3
    assert abs(target[8, 8] - (60, 90, 30)).max() <= 3
    picture = np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int)
    assert abs(result - picture[0, 0]).max() <= 3
    photo = np.asarray(
        Image.open(Path(lake.uri).parent / "vgg" / PEOPLE[1] / f"{STEM}.jpg").resize((FRAME, FRAME))
    )
    small = cv2.resize(FACE, (FRAME, FRAME), interpolation=cv2.INTER_NEAREST) > 0
    expected = condition_image(
        photo,
        small,
        np.zeros_like(small),
        (LANDMARKS / 2).astype(np.float32),
        (IRIS / 2).astype(np.float32),
        ConditionRecipe(),
    )
    blocks = condition.reshape(FRAME, 16, FRAME, 16, 3).mean(axis=(1, 3))
    assert np.abs(blocks - expected).mean() < 6


def test_a_second_export_writes_nothing_and_a_killed_one_is_completed(
    lake: Lake, graph: StageGraph, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    export_triplets(lake, graph, root)
    whole = tree(root)
    again = export_triplets(lake, graph, root)
    assert (again.written, again.unchanged) == (0, 12)
    assert tree(root) == whole

    class Killed(Exception):
        pass

    def die(pair_id: str) -> None:
        if len(list(other.glob("*.png"))) == 2:
            raise Killed

    other = tmp_path / "other"
    with pytest.raises(Killed):
        export_triplets(lake, graph, other, on_triplet=die)
    stand = {path: path.stat().st_mtime_ns for path in other.glob("*.png")}
    assert len(stand) == 2
    export_triplets(lake, graph, other)
    assert tree(other) == whole
    assert {path: path.stat().st_mtime_ns for path in stand} == stand
    # a damaged file of ours is mended, and pictures of no triplet are told
    (root / sorted(whole)[0]).with_suffix(".png").write_bytes(b"half")
    (root / "n000999_0001_01_n000002_0001_01.png").write_bytes(b"of a triplet that is gone")
    mended = export_triplets(lake, graph, root)
    assert mended.others_there == 1
    assert {name: data for name, data in tree(root).items() if name in whole} == whole


@pytest.mark.parametrize("content", ["score.json", "holiday.png"])
def test_a_folder_of_something_else_is_left_alone(
    lake: Lake, graph: StageGraph, tmp_path: Path, content: str
) -> None:
    (tmp_path / content).write_bytes(b"mine")
    with pytest.raises(LakeError, match="no export of triplets"):
        export_triplets(lake, graph, tmp_path)
    assert tree(tmp_path) == {content: b"mine"}


def test_only_released_triplets_where_that_is_asked(lake: Lake, graph: StageGraph, tmp_path: Path) -> None:
    report = export_triplets(lake, graph, tmp_path, released=True)
    assert report.triplets == 2
    assert report.left_out == {"not released": 4}


def test_withdrawn_consent_keeps_a_triplet_at_home(graph: StageGraph, tmp_path: Path) -> None:
    lake = new_lake(tmp_path, graph)
    photographs = tmp_path / "withdrawn"
    photographs.mkdir()
    (tmp_path / "vgg" / PEOPLE[0]).rename(photographs / PEOPLE[0])
    ingest(lake, photographs, consent=Consent.ANNOTATION_ONLY)
    run_stages(lake, graph, graph.names, device="cpu")
    report = export_triplets(lake, graph, tmp_path / "out")
    assert report.left_out["consent"] + report.left_out["not ok or not fresh"] == 4
    assert report.triplets == 2
    assert not list((tmp_path / "out").glob(f"*{PEOPLE[0]}*"))


def test_names_the_loader_refuses_are_refused_or_escaped(graph: StageGraph, tmp_path: Path) -> None:
    lake = new_lake(tmp_path, graph, people=("n000001", "anna_b", "n000007"))
    with pytest.raises(
        LakeError, match=r"4 of 6 triplets have names .*refuses, e\.g\. anna_b/0001_01__n000001"
    ):
        export_triplets(lake, graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = export_triplets(lake, graph, tmp_path / "out", any_names=True)
    assert (report.triplets, report.foreign_names) == (6, 4)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == [
        "anna%5Fb_0001%5F01_n000001_0001%5F01.png",
        "anna%5Fb_0001%5F01_n000007_0001%5F01.png",
        "n000001_0001%5F01_anna%5Fb_0001%5F01.png",
        "n000001_0001_01_n000007_0001_01.png",
        "n000007_0001%5F01_anna%5Fb_0001%5F01.png",
        "n000007_0001_01_n000001_0001_01.png",
    ]


def test_names_are_never_shared() -> None:
    ids = ["a_b/c", "a/b_c", "a/b/c", "a%5Fb/c", "n000001/0001_01", "n000001/0001/01"]
    stems = [picture_stem(source, target)[0] for source, target in itertools.permutations(ids, 2)]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "apple-triplets", "--stage", "iris"], "--stage belongs to --layout apple"),
        (["--released"], "belong to --layout"),
    ],
)
def test_options_of_the_other_layout_are_refused(
    lake: Lake, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(cli.app, ["export", str(tmp_path / "out"), "--lake", lake.uri, *arguments])
    assert done.exit_code != 0
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_the_command_exports_a_real_lake(smoke_lake, tmp_path: Path) -> None:
    command = ["export", str(tmp_path / "out"), "--layout", "apple-triplets", "--lake", smoke_lake.lake.uri]
    command += ["--profile", "smoke", "--any-names", "--json"]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["triplets"] == told["foreign_names"] == 6
    for path in (tmp_path / "out").glob("*.png"):
        assert read_mark(path.read_bytes()) is not None
    assert len(list((tmp_path / "out" / "grid").glob("*.jpg"))) == 6
