"""`orchard forget` on a finished lake: nothing of the pictures is left in any file under its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.plan import stage_status
from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.errors import LakeError
from resources.lake.forget import forget
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.locks import works_on_lake
from resources.lake.pairs import store_swap_pairs, swap_pair_rows
from resources.lake.removals import read_removals, read_tainted
from resources.photos.pairs import read_swap_pairs

WINDOW = 24
"""Bytes of one searched sequence: long enough never to occur by chance."""


def sequences(data: bytes, count: int = 5) -> list[bytes]:
    """Distinctive pieces spread over the middle of a file; of a PNG over its pixels only.

    The marks that say how a PNG was made read alike in all of them.
    """
    if data.startswith(b"\x89PNG"):
        data = data[data.index(b"IDAT") + 8 : data.index(b"IDAT") + 4 + pixel_bytes(data)]
    places = np.linspace(len(data) * 0.3, len(data) * 0.9 - WINDOW, count).astype(int)
    pieces = [data[place : place + WINDOW] for place in places]
    return [piece for piece in pieces if len(set(piece)) > WINDOW // 3]


def pixel_bytes(png: bytes) -> int:
    """Length of the first IDAT chunk."""
    start = png.index(b"IDAT")
    return int.from_bytes(png[start - 4 : start], "big")


def found_in(lake: Lake, pieces: list[bytes]) -> dict[bytes, list[str]]:
    """Files under the lake that hold one of the pieces, by piece."""
    found: dict[bytes, list[str]] = {}
    for path in Path(lake.uri).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for piece in pieces:
                if piece in data:
                    found.setdefault(piece, []).append(path.relative_to(lake.uri).as_posix())
    return found


MADE = (("triplets", "swapped"), ("swaps", "swap"), ("diffface_swaps", "swap"), ("swap_pairs", "truth"))
"""Tables of made pictures, and the columns that hold them."""


def pieces_of(lake: Lake, identity: str) -> dict[str, list[bytes]]:
    """Byte sequences of everything stored about a person: photographs, arrays, made pictures, truths."""
    names = ["image", "identity_embedding", "latent_target", "latent_condition"]
    pieces: dict[str, list[bytes]] = {name: [] for name in names}
    rows = lake.faces.snapshot().scan(["image_id", *names], filter=f"identity = '{identity}'").to_pylist()
    for row in rows:
        pieces["image"] += sequences(row["image"])
        pieces["identity_embedding"] += sequences(np.asarray(row[names[1]], np.float32).tobytes())
        for name in names[2:]:
            pieces[name] += sequences(np.asarray(row[name], np.float16).tobytes())
    ids = {row["image_id"] for row in rows}
    for table, column in MADE:
        ends = ["source_image_id", "target_image_id"]
        made = lake.table(table).snapshot().scan([*ends, column]).to_pylist()
        pieces[column] = pieces.get(column, []) + [
            piece
            for row in made
            if row[column] and ids & {row[end] for end in ends}
            for piece in sequences(row[column])
        ]
    return pieces


def rows_by_key(lake: Lake, without: str) -> dict[str, dict]:
    """All live values of `faces` and row ids, except those of one person."""
    rows = lake.faces.snapshot().dataset.to_table(with_row_id=True).to_pylist()
    return {row["image_id"]: row for row in rows if row["identity"] != without}


@pytest.fixture
def trained_and_swapped(smoke_lake) -> tuple[str, str]:
    """A person the models were trained on, and one who is held out and swapped."""
    lake = smoke_lake.lake
    pairs = lake.swap_pairs.snapshot().dataset.to_table(columns=["source_image_id"]).to_pylist()
    swapped = pairs[0]["source_image_id"].split("/")[0]
    triplets = lake.triplets.snapshot().scan(["source_image_id"])["source_image_id"].to_pylist()
    return triplets[0].split("/")[0], swapped


def test_no_byte_of_a_person_is_left_and_the_models_that_saw_them_are_named(
    smoke_lake, trained_and_swapped: tuple[str, str], tmp_path: Path
) -> None:
    copy = smoke_lake.copy_to(tmp_path)
    lake, person = copy.lake, trained_and_swapped[0]
    graph = profile("smoke").graph()
    others = rows_by_key(lake, without=person)
    shards = {row["image_id"]: row["shard"] for row in others.values()}
    # a rerun leaves an old column group, a killed worker a file no version knows, a report small pictures
    run_stages(lake, graph, ["latents"], force=True, device="cpu")
    pieces = pieces_of(lake, person)
    leftover = Path(lake.faces.uri) / "data" / "0123456789.lance"
    leftover.write_bytes(b"".join(pieces["image"]))
    (Path(lake.uri) / "report.html").write_bytes(pieces["image"][0])
    everything = [piece for group in pieces.values() for piece in group]
    names = [person.encode()]
    before = found_in(lake, [*everything, *names])
    for kind in ("image", "latent_target", "latent_condition", "swapped"):
        assert pieces[kind], kind
        assert any(piece in before for piece in pieces[kind]), f"the search cannot see {kind}"

    report = forget(lake, identities=[person])

    assert found_in(lake, [*everything, *names]) == {}
    assert report.photographs == 4
    assert report.tables["faces"].rows == 4
    assert report.tables["triplets"].rows > 0
    assert [len(report.tables[name].dropped_tags) for name in ("faces", "triplets")] == [1, 1]
    # validation grids show photographs, and TensorBoard holds the same grids
    kept_by = {"teacher", "student"}
    shown = [item.split("/") for item in report.removed_files if item != "report.html"]
    assert {(run.partition("-")[0], what) for _, run, what in shown} == {
        (stage, what) for stage in kept_by for what in ("tensorboard", "validation")
    }
    assert len(shown) + 1 == len(report.removed_files)
    assert len(report.lists) == 2  # the release's photographs, and its triplets
    assert {item.stage for item in report.tainted} == {"teacher", "student"}
    assert {item.digest for item in report.tainted} == {
        lake.current_artifact(stage).digest.hex() for stage in ("teacher", "student")
    }
    assert rows_by_key(lake, without=person).keys() == others.keys()
    compare_unchanged(lake, others, skip="latents_state")
    snapshot = lake.faces.snapshot()
    for fragment in snapshot.dataset.get_fragments():
        values = snapshot.fragment_columns(fragment.fragment_id, ["shard"])["shard"].to_pylist()
        assert len(set(values)) == 1
    assert {row["image_id"]: row["shard"] for row in rows_by_key(lake, person).values()} == shards
    for table in ("faces", "triplets", "swaps", "diffface_swaps", "swap_pairs"):
        lake.table(table).snapshot().dataset.validate()


def compare_unchanged(lake: Lake, before: dict[str, dict], skip: str) -> None:
    after = rows_by_key(lake, without="")
    for key, row in before.items():
        assert {name: value for name, value in after[key].items() if name != skip} == {
            name: value for name, value in row.items() if name != skip
        }


def test_the_next_run_makes_everything_again_without_them(
    smoke_lake, trained_and_swapped: tuple[str, str], tmp_path: Path
) -> None:
    copy = smoke_lake.copy_to(tmp_path)
    lake, person = copy.lake, trained_and_swapped[1]
    store_swap_pairs(lake, swap_pair_rows(read_swap_pairs(copy.folder / "swap_pairs.csv")))
    graph = profile("smoke").graph()
    everything = [piece for group in pieces_of(lake, person).values() for piece in group]
    report = forget(lake, identities=[person])
    assert found_in(lake, everything) == {}
    assert report.tables["swaps"].rows > report.tables["diffface_swaps"].rows > 0
    assert report.tables["swap_pairs"].rows > 0
    assert {item.stage for item in report.tainted} == {"evaluation", "evaluation_protocol", "frontier"}
    assert any(location.startswith("frontiers/") for location in report.removed_files)

    # the same folder and the same list of pairs do not bring them back
    again = ingest(lake, copy.folder / "photos", shard_size=8)
    assert (again.added, again.replaced, len(again.skipped)) == (0, 0, 4)
    assert all("policy" in text for text in again.skipped)
    store_swap_pairs(lake, swap_pair_rows(read_swap_pairs(copy.folder / "swap_pairs.csv")))
    assert found_in(lake, everything) == {}
    assert read_removals(lake).has_identity(person)

    computed = run_stages(lake, graph, ["release"], device="cpu").computed_rows
    assert computed == {"release": 1}
    status = stage_status(lake, graph)["stages"]
    assert status["release"]["ok"] == 1
    assert all(status[name]["pending"] == 0 for name in ("landmarks", "latents"))

    welcome = ingest(lake, copy.folder / "photos", shard_size=8, un_forget=True)
    assert welcome.added == 4
    assert not read_removals(lake).has_identity(person)
    assert ingest(lake, copy.folder / "photos", shard_size=8).unchanged == 20


def test_forgetting_one_photograph_by_command_and_again(
    smoke_lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = smoke_lake.copy_to(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    image_id = sorted(rows_by_key(copy.lake, without=""))[0]
    command = ["forget", "--image", image_id, "--lake", copy.lake.uri, "--yes", "--json"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert (found["photographs"], found["rows"]["faces"]) == (1, 1)
    assert len(rows_by_key(copy.lake, without="")) == 19
    second = json.loads(CliRunner().invoke(app, command).stdout)
    assert second["rows"] == dict.fromkeys(found["rows"], 0)
    status = CliRunner().invoke(app, ["status", "--lake", copy.lake.uri, "--profile", "smoke"])
    assert status.output.count("photographs forgotten since") == len(second["tainted"]) > 0
    assert [item["digest"] for item in second["tainted"]] == [item.digest for item in read_tainted(copy.lake)]


def test_an_unknown_name_is_refused_and_nothing_changes(smoke_lake) -> None:
    version = smoke_lake.lake.faces.snapshot().version
    with pytest.raises(LakeError, match="no photograph of or named nobody"):
        forget(smoke_lake.lake, identities=["nobody"])
    assert smoke_lake.lake.faces.snapshot().version == version


def test_forgetting_is_refused_while_somebody_computes(smoke_lake) -> None:
    @works_on_lake
    def compute(lake: Lake, then: Callable[[], object]) -> None:
        then()

    with pytest.raises(LakeError, match="another process is computing"):
        compute(smoke_lake.lake, lambda: forget(smoke_lake.lake, identities=["anybody"]))
