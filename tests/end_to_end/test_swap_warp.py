"""`orchard swap --method mesh_warp`: no lake, no checkpoint, and what it changes and leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import render
from pipeline.cli import app
from resources.photos.decoding import decode_upright
from resources.photos.marking import read_mark

CONSENT = "rendered faces, nobody is shown"
SIDE = 400
"""Side of a portrait, px: larger than any frame that the models of the CPU profiles work on."""


@dataclass(frozen=True)
class People:
    """A portrait, and a photograph of two other people side by side, with where their heads are."""

    source: Path
    target: Path
    pixels: np.ndarray
    heads: list[np.ndarray]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    folder = tmp_path_factory.mktemp("people")
    faces = render(sample_identities(3, 4), sample_attributes(23, 4, crops=("portrait",), occluded=0.0), SIDE)
    pair = np.concatenate([faces.images_NHWC[2], faces.images_NHWC[3]], axis=1)
    Image.fromarray(faces.images_NHWC[0]).save(folder / "source.png")
    Image.fromarray(pair).save(folder / "target.png")
    heads = []
    for person in (2, 3):
        head = np.zeros(pair.shape[:2], np.bool_)
        left = (person - 2) * SIDE
        head[:, left : left + SIDE] = faces.parsing_NHW[person] > 0
        # the mask, which follows the mesh, may err by a few pixels at the jaw
        heads.append(cv2.dilate(head.astype(np.uint8), np.ones((21, 21), np.uint8)) > 0)
    return People(folder / "source.png", folder / "target.png", pair, heads)


@pytest.fixture
def warp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command where there is no lake."""
    monkeypatch.setenv("ORCHARD_LAKE", str(tmp_path / "no lake"))

    def run(*arguments: object, code: int = 0) -> Any:
        line = ["swap", *map(str, arguments), "--method", "mesh_warp", "--consent", CONSENT, "--json"]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == code, (done.output, done.exception)
        assert not (tmp_path / "no lake").exists()
        return json.loads(done.stdout) if code == 0 else done

    return run


def pixels(path: Path) -> np.ndarray:
    return decode_upright(path.read_bytes())


def test_one_face_is_warped_where_it_is_and_all_else_is_the_same_to_the_bit(
    warp: Callable[..., Any], people: People, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    said = warp(people.source, people.target, "-o", out, "--faces", "index:1", "--save-mask", "--grid")
    assert [(face["index"], face["swapped"]) for face in said["faces"]] == [(1, True)]
    result, mask = pixels(out), pixels(tmp_path / "out_mask.png")[..., 0] > 0
    different = (result != people.pixels).any(axis=2)
    assert not different[~mask].any()
    assert not different[~people.heads[1]].any()
    assert different[mask].mean() > 0.7
    assert mask.sum() > 0.15 * people.heads[1].sum()
    for name in ("out.png", "out_mask.png", "out_grid.png"):
        mark = read_mark((tmp_path / name).read_bytes())
        assert mark is not None
        assert (mark.model_id, mark.stage, mark.consent) == ("mesh_warp", "swap/mesh_warp", CONSENT)
    assert Image.open(tmp_path / "out_grid.png").size == (3 * 512, 512)


def test_the_source_decides_the_face(warp: Callable[..., Any], people: People, tmp_path: Path) -> None:
    """A person's own photograph warped onto itself hardly changes it; somebody else's does."""
    own, other = tmp_path / "own.png", tmp_path / "other.png"
    warp(people.target, people.target, "--source-face", "index:0", "--faces", "index:0", "-o", own)
    warp(people.source, people.target, "--faces", "index:0", "-o", other, "--save-mask")
    face = pixels(tmp_path / "other_mask.png")[..., 0] > 0
    errors = [np.abs(pixels(path).astype(int) - people.pixels)[face].mean() for path in (own, other)]
    assert errors[0] < 3
    assert errors[1] > 3 * errors[0]


def test_folders_are_gone_through_and_taken_up_again(
    warp: Callable[..., Any], people: People, tmp_path: Path
) -> None:
    for side, photo in (("a", people.source), ("b", people.target)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "1.png").write_bytes(photo.read_bytes())
        Image.new("RGB", (96, 96), (90, 90, 90)).save(tmp_path / side / "2.png")
    line = (tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert warp(*line, code=1).exit_code == 1
    entries = [json.loads(text) for text in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert {entry["name"]: entry.get("reason") for entry in entries} == {"1": None, "2": "no_face"}
    assert entries[-1]["detail"].startswith("source: no face")
    for side in ("a", "b"):
        (tmp_path / side / "2.png").unlink()
    again = warp(*line)
    assert (again["swapped"], again["skipped"], again["failed"]) == (0, 1, 0)


@pytest.mark.parametrize(
    "flags",
    [
        ("--steps", "4"),
        ("--id_guidance_scale", "2"),
        ("--condition_type", "blur_landmark"),
        ("--inverse_steps", "2"),
        ("--masked-source",),
        ("--raw-frame",),
        ("--feather", "0.1"),
        ("--checkpoint_path", "somewhere"),
        ("--model_id", "tiny_base"),
        ("--recipe", "exact"),
    ],
    ids=lambda flags: flags[0],
)
def test_flags_of_models_are_refused(
    warp: Callable[..., Any], people: People, flags: tuple[str, ...]
) -> None:
    done = warp(people.source, people.target, *flags, code=2)
    name = "a flag about inversion" if flags[0] == "--inverse_steps" else flags[0]
    assert f"leave out {name}" in " ".join(done.output.replace("│", " ").split())
