"""The report of a finished lake: one page that is whole, asks for nothing and shows what is stored."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from assets.stage import StageGraph
from assets.swap_methods import methods_of
from pipeline.doctor import note_browser
from pipeline.report import ReportData, render, write_report
from pipeline.report.wording import metric
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.photos.marking import DIGITAL_SOURCE_TYPE, read_mark

METHOD_KEYS = methods_of(diffface=True)
METHODS = ("teacher", "teacher + inversion", "student", "mesh warp", "DiffFace")
SIDE = 32
"""Side of the smoke profile's pictures, px."""

Reporting = Callable[[Lake], ReportData]


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, its pictures by alternative text, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def pictures(self, alt: str) -> list[tuple[bytes, str]]:
        """File bytes and title of every picture whose alternative text starts with `alt`."""
        found = [
            attributes for tag, attributes in self.tags if tag == "img" and attributes["alt"].startswith(alt)
        ]
        return [
            (base64.b64decode(item["src"].removeprefix("data:image/png;base64,")), item.get("title", ""))
            for item in found
        ]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def block_means(picture: np.ndarray) -> np.ndarray:
    """A square picture averaged down to `SIDE`, whose side divides its own."""
    block = picture.shape[0] // SIDE
    return picture.reshape(SIDE, block, SIDE, block, 3).mean(axis=(1, 3))


def swapped_bytes(lake: Lake) -> dict[str, bytes]:
    tables = (lake.swaps, lake.diffface_swaps)
    rows = [table.snapshot().dataset.to_table(columns=["pair_id", "swap"]).to_pylist() for table in tables]
    return {row["pair_id"]: row["swap"] for own in rows for row in own}


def files_of(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_one_file_that_asks_for_nothing(html: str, page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes[name][:80])
        assert not any(name.startswith("on") for name in attributes)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    policy = next(item["content"] for _, item in page.tags if item.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_a_browser_shows_it_on_a_phone_without_errors_or_requests(html: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    browser_path = note_browser().detail
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path if Path(browser_path).is_file() else None, args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        complaints: list[str] = []
        requests: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_load_state("networkidle")
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        browser.close()


def test_an_unchanged_lake_gives_the_same_bytes_whatever_the_place_or_clock(
    smoke_lake: Any, html: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report_of: Reporting
) -> None:
    elsewhere = shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    before = files_of(elsewhere)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        again = render(report_of(Lake.open(elsewhere)))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert hashlib.sha256(again.encode()).hexdigest() == hashlib.sha256(html.encode()).hexdigest()
    assert files_of(elsewhere) == before
    assert str(tmp_path) not in again
    assert str(Path(smoke_lake.lake.uri).parent) not in html


def test_accounts_of_every_stage_add_up(finished: ReportData, graph: StageGraph, page: Page) -> None:
    assert [line.name for line in finished.stages] == ["faces", *graph.names]
    lines = {line.name: line for line in finished.stages}
    for line in finished.stages:
        expected = {"photographs": 20, "triplets": 6, "swaps": 16, "result": 1}[line.unit]
        expected = 4 if line.name == "diffface_swaps" else expected
        assert line.ok + line.quarantined + line.pending == expected
        assert sum(item.count for item in line.reasons) == line.quarantined
    assert lines["faces"].ok == 20
    assert lines["evaluation"].ok == 1
    assert "Photographs in the lake: 20." in page.text


def test_every_annotation_stage_that_can_be_drawn_is_shown(finished: ReportData, graph: StageGraph) -> None:
    drawn = [stage.name for stage in graph.row_stages("faces") if stage.preview is not None]
    assert [preview.stage for preview in finished.previews] == ["faces", *drawn]
    assert {"landmarks", "iris", "masks", "condition"} <= set(drawn)
    shown = {preview.stage: pixels(preview.pictures[0].png) for preview in finished.previews}
    assert shown["faces"].shape == (160, 640, 3)
    assert all((shown[name] != shown["faces"]).any() for name in drawn)
    assert set(finished.stages_without_picture) == {"identity_embedding", "latents"}


def test_photographs_that_are_only_annotated_stand_beside_the_others(
    smoke_lake: Any, graph: StageGraph, tmp_path: Path, astronaut: np.ndarray, report_of: Reporting
) -> None:
    own = smoke_lake.copy_to(tmp_path)
    portraits = tmp_path / "portraits"
    (portraits / "eileen").mkdir(parents=True)
    for index in range(9):  # the last shard has room for four, so these fill it up and open another
        Image.fromarray(astronaut[: 400 + index]).save(portraits / "eileen" / f"{index}.png")
    ingest(own.lake, portraits, layout="identity-folders", consent=Consent.ANNOTATION_ONLY, shard_size=8)
    faces = report_of(own.lake).previews[0]
    assert faces.stage == "faces"
    assert [picture.title for picture in faces.pictures] == [
        "the first photographs of shard-00000",
        "the first photographs of shard-00003",
    ]


def test_the_swaps_on_the_page_are_the_stored_files_with_their_marks(smoke_lake: Any, page: Page) -> None:
    stored = swapped_bytes(smoke_lake.lake)
    shown = page.pictures("swap by ")
    assert sorted(data for data, _ in shown) == sorted(stored.values())
    assert len(shown) == 20
    models = {
        name: smoke_lake.lake.current_artifact(name).metadata["model_id"] for name in ("teacher", "student")
    }
    for data, title in shown:
        mark = read_mark(data)
        assert mark is not None
        method = mark.stage.removeprefix("swaps/")
        named = {**models, "teacher_inversion": models["teacher"], "diffface_swaps": mark.model_id}
        assert mark.model_id == named.get(method, "mesh_warp")
        assert mark.model_id.startswith("diffface-") == (method == "diffface_swaps")
        assert mark.model_id in title
        assert page.words.count(mark.model_id) >= 4
    assert DIGITAL_SOURCE_TYPE in page.words
    assert "20 of 20 marks" in page.text


def test_target_condition_and_truth_are_what_the_model_is_measured_with(
    smoke_lake: Any, finished: ReportData, graph: StageGraph
) -> None:
    photos = smoke_lake.lake.faces.snapshot().find(
        [row.target_id for row in finished.swaps], ["image", "condition_sha256"]
    )
    truths = smoke_lake.lake.swap_pairs.snapshot().find([row.pair_id for row in finished.swaps], ["truth"])
    assert len(finished.swaps) == finished.swap_pairs == 4
    for row in finished.swaps:
        tiles = {tile.column: tile for tile in row.tiles}
        assert list(tiles) == ["source", "target", "condition", *METHODS, "truth"]
        pictures = {name: pixels(tile.picture.png) for name, tile in tiles.items() if tile.picture}
        assert pictures["source"].shape == (128, 128, 3)
        photo = block_means(pixels(photos[row.target_id]["image"]))
        assert np.abs(pictures["target"] - photo).max() <= 1
        truth = block_means(pixels(truths[row.pair_id]["truth"]))
        assert np.abs(pictures["truth"] - truth).max() <= 1
        condition = hashlib.sha256(pictures["condition"].tobytes()).hexdigest()
        assert condition == photos[row.target_id]["condition_sha256"]
        assert tiles["condition"].words == ""


def test_the_metric_tables_hold_every_stored_value_in_order(smoke_lake: Any, html: str, page: Page) -> None:
    digest = smoke_lake.lake.current_artifact("evaluation").digest.hex()
    stored = [
        row
        for row in smoke_lake.lake.evaluations.snapshot().dataset.to_table().to_pylist()
        if row["evaluation"] == digest
    ]
    section = html[html.index('<section id="metrics">') : html.index('<section id="frontier">')]
    bodies = re.findall(r"<tbody>(.*?)</tbody>", section, re.DOTALL)
    assert len(bodies) == 3  # whose face, likeness, attributes
    keys = ("copy_target", "codec_ceiling", *METHOD_KEYS)
    texts = dict.fromkeys(keys, "")
    for body in bodies:
        lines = [" ".join(Page(line).text.split()) for line in body.split("</tr>") if "<th" in line]
        names = ["copy target", "codec ceiling", *METHODS]
        assert [next(name for name in reversed(names) if line.startswith(name)) for line in lines] == names
        for line, key in zip(lines, keys, strict=True):
            texts[key] += line
            assert ("no model" in line) == (key in ("copy_target", "codec_ceiling"))
        assert not re.search(r"<(strong|b|mark)\b", body)
    for row in stored:
        mean, low, high = (metric(row["metric"]).text(row[part]) for part in ("mean", "low", "high"))
        assert f"{mean} {low} to {high}" in texts[row["method"]]
    assert "0.00 0.00 to 0.00" in texts["copy_target"]  # doing nothing makes no progress
    assert "PSNR alone is a trap" in page.text
    assert "student : the source is found among 20 people for" in page.text.replace("student:", "student :")


def test_judges_of_identity_say_whether_training_saw_them(finished: ReportData, page: Page) -> None:
    assert finished.evaluation is not None
    assert finished.evaluation.training_judges == ("world",)
    assert finished.evaluation.other_judges == ("dlib",)
    assert "This network took part in training, so it may be kind to the models." in page.text
    assert "No training ever saw this network." in page.text


def test_numbers_are_rounded_without_a_signed_zero() -> None:
    progress = metric("swap_progress")
    assert [progress.text(value) for value in (-0.001, 0.256, -0.256)] == ["0.00", "0.26", "\u22120.26"]
    assert metric("a metric of tomorrow").name == "a metric of tomorrow"


def test_provenance_names_release_models_base_and_consent(smoke_lake: Any, page: Page) -> None:
    release = smoke_lake.lake.current_artifact("release").metadata
    teacher = smoke_lake.lake.current_artifact("teacher")
    manifest = json.loads((Path(smoke_lake.lake.uri) / teacher.location / "manifest.json").read_text())
    version = smoke_lake.lake.faces.snapshot(release["tag"]).version
    assert f"{release['tag']} , version {version} of the photographs" in page.text
    assert f"sha256:{manifest['base_sha256']}" in page.text
    assert "pseudo triplets made 6" in page.text
    assert "synthetic 20 rendered faces of nobody" in page.text
    assert "Nobody real is swapped." in page.text


def test_names_cannot_break_out_of_the_page(finished: ReportData) -> None:
    hostile = "\"><script>alert('1')</script>"
    tile = dataclasses.replace(finished.swaps[0].tiles[3], words=hostile, model_id=hostile)
    row = dataclasses.replace(finished.swaps[0], source_id=hostile, pair_id=hostile, tiles=(tile,))
    picture = dataclasses.replace(finished.previews[0].pictures[0], alt=hostile, title=hostile)
    preview = dataclasses.replace(finished.previews[0], caption=hostile, pictures=(picture,))
    html = render(dataclasses.replace(finished, lake=hostile, swaps=(row,), previews=(preview,)))
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert hostile in page.words


def test_a_report_is_written_whole_or_not_at_all(finished: ReportData, html: str, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "report.html"
    assert write_report(finished, path) == len(html.encode()) == path.stat().st_size
    assert path.read_text(encoding="utf-8") == html
    occupied = tmp_path / "occupied.html"
    (occupied / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"occupied\.html"):
        write_report(finished, occupied)
    assert list(path.parent.iterdir()) == [path]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["new folder", "occupied.html"]
