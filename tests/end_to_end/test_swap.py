"""`orchard swap` on what people have: group photographs, folders, and the tree of the original's scripts."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models.worlds.parameters import Attributes, Identities
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import render
from pipeline.cli import app
from resources.photos.decoding import decode_upright
from resources.photos.marking import read_mark
from resources.weights.resolve import resolve

CONSENT = "rendered faces, nobody is shown"
PLACES = ((20, 120), (320, 30), (620, 150))
"""Left upper corners of the three people in the group photograph."""


@dataclass(frozen=True)
class Group:
    """A group photograph of three rendered people: the file, upright pixels, where each is (with a margin of
    6 px), and another portrait of each."""

    photo: Path
    pixels: np.ndarray
    heads: list[np.ndarray]
    portraits: list[Path]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    """Three people cut out along the world's own parsing, put before one backdrop; a JPEG that lies on its
    side with an EXIF orientation, as phones write them."""
    folder = tmp_path_factory.mktemp("group")
    rows = [0, 2, 3]
    people, settings = (
        sample_identities(3, 4).values[rows],
        sample_attributes(23, 4, crops=("portrait",), occluded=0.0).values[rows],
    )
    faces = render(Identities(people), Attributes(settings), 256)
    others = render(Identities(people), sample_attributes(9, 3, crops=("portrait",), occluded=0.0), 256)
    slope = np.linspace(0, 1, 900)[None, :, None]
    backdrop = np.array([120, 150, 170]) * (1 - slope) + np.array([60, 90, 60]) * slope
    scene = np.broadcast_to(backdrop, (420, 900, 3)).astype(np.uint8).copy()
    heads, portraits = [], []
    for person, (left, top) in enumerate(PLACES):
        who = faces.parsing_NHW[person] > 0
        scene[top : top + 256, left : left + 256][who] = faces.images_NHWC[person][who]
        head = np.zeros(scene.shape[:2], np.bool_)
        head[top : top + 256, left : left + 256] = who
        # the parsing, which follows the mesh, may err by a few pixels at the jaw
        heads.append(cv2.dilate(head.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0)
        portraits.append(folder / f"portrait_{person}.png")
        Image.fromarray(others.images_NHWC[person]).save(portraits[-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    on_its_side = Image.fromarray(scene).transpose(Image.Transpose.ROTATE_90)
    on_its_side.save(folder / "group.jpg", quality=95, subsampling=0, exif=exif)
    pixels = decode_upright((folder / "group.jpg").read_bytes())
    assert pixels.shape == scene.shape
    return Group(folder / "group.jpg", pixels, heads, portraits)


@pytest.fixture
def swap(smoke_lake, monkeypatch: pytest.MonkeyPatch):
    """`orchard swap` in this process: same command line, models loaded once for all tests."""
    torch.set_num_threads(1)
    monkeypatch.setenv("ORCHARD_LAKE", smoke_lake.lake.uri)
    monkeypatch.setenv("ORCHARD_PROFILE", "smoke")

    def run(*arguments: object, code: int = 0, json_output: bool = True) -> Any:
        line = ["swap", *map(str, arguments), "--consent", CONSENT, *(["--json"] if json_output else [])]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout) if json_output and done.stdout else done

    return run


@pytest.fixture
def source(smoke_lake) -> Path:
    return smoke_lake.folder / "photos" / "w000003" / "0001_01.jpg"


def pixels(path: Path) -> np.ndarray:
    return decode_upright(path.read_bytes())


def changed(result: np.ndarray, before: np.ndarray) -> np.ndarray:
    return (result != before).any(axis=2)


def test_the_right_face_of_a_group_is_swapped_and_all_else_is_the_same_to_the_bit(
    swap, group: Group, source: Path, tmp_path: Path
) -> None:
    ways = {
        1: ("--faces", "index:1", "--inverse_cond", "trgID_noCond", "--inverse_steps", 1, "--grid"),
        2: ("--faces", f"closest:{group.portraits[2]}"),
    }
    for person, flags in ways.items():
        out = tmp_path / f"{person}.png"
        said = swap(source, group.photo, "-o", out, "--save-mask", *flags)
        assert [face["index"] for face in said["faces"]] == [person]
        result, mask = pixels(out), pixels(tmp_path / f"{person}_mask.png")[..., 0] > 0
        assert result.shape == group.pixels.shape
        np.testing.assert_array_equal(result[~mask], group.pixels[~mask])
        different = changed(result, group.pixels)
        # by the world's own truth, not ours: nothing off the person, and most of the face
        assert not different[~group.heads[person]].any()
        assert mask.sum() > 0.2 * group.heads[person].sum()
        assert different[mask].mean() > 0.9
        for name in (out, tmp_path / f"{person}_mask.png"):
            mark = read_mark(name.read_bytes())
            assert mark is not None
            assert (mark.model_id, mark.consent) == (said["model_id"], CONSENT)
    assert Image.open(tmp_path / "1_grid.png").size == (4 * 128, 128)
    assert read_mark((tmp_path / "1_grid.png").read_bytes()) is not None


def test_all_faces_are_swapped_each_as_if_alone(
    swap, group: Group, source: Path, astronaut: np.ndarray, tmp_path: Path
) -> None:
    said = swap(source, group.photo, "-o", tmp_path / "all.png", "--faces", "all", "--grid")
    assert [face["swapped"] for face in said["faces"]] == [True] * 3
    together = pixels(tmp_path / "all.png")
    different = changed(together, group.pixels)
    assert not different[~np.any(group.heads, axis=0)].any()
    assert all(different[head].mean() > 0.2 for head in group.heads)
    assert Image.open(tmp_path / "all_grid.png").size == (3 * 128, 3 * 128)
    swap(source, group.photo, "-o", tmp_path / "one.png", "--faces", "index:2")
    alone = pixels(tmp_path / "one.png")[group.heads[2]].astype(int)
    # float sums differ by the batch, so a rounding may fall the other way
    assert np.abs(alone - together[group.heads[2]]).max() <= 1
    done = swap(source, group.photo, "-o", tmp_path / "none.png", "--faces", "index:3", code=1)
    assert "there is no face 3: 3 were found" in str(done.exception)
    Image.fromarray(astronaut).save(tmp_path / "stranger.png")
    stranger = swap(source, group.photo, "--faces", f"closest:{tmp_path / 'stranger.png'}", code=1)
    assert "none of 3 faces is the wanted person" in str(stranger.exception)


def test_the_face_of_a_group_can_give_the_identity(swap, group: Group, smoke_lake, tmp_path: Path) -> None:
    """Which face of the source is taken decides the result: the same as from that person cut out alone."""
    target = smoke_lake.folder / "photos" / "w000004" / "0002_01.jpg"
    left, top = PLACES[2]
    Image.fromarray(group.pixels[top:406, left : left + 256]).save(tmp_path / "alone.png")
    for name, flags in {
        "chosen": (group.photo, target, "--source-face", "index:2"),
        "other": (group.photo, target, "--source-face", "index:0"),
        "alone": (tmp_path / "alone.png", target),
    }.items():
        swap(*flags, "-o", tmp_path / f"{name}.png", "--raw-frame")
    chosen, other, alone = (
        pixels(tmp_path / f"{name}.png").astype(int) for name in ("chosen", "other", "alone")
    )
    assert chosen.shape == (32, 32, 3)
    assert np.abs(chosen - alone).mean() < 0.5 * np.abs(other - alone).mean()


def test_raw_frames_of_the_ffhq_tree_are_the_lakes_own_swaps(swap, smoke_lake, tmp_path: Path) -> None:
    """The command and the stage `swaps` give the same pictures of the same pairs, whatever the batch; with
    inversion no seed is involved."""
    rows = (
        smoke_lake.lake.table("swaps")
        .snapshot()
        .scan(["source_image_id", "target_image_id", "method", "swap"])
    )
    pairs = [row for row in rows.to_pylist() if row["method"] == "teacher_inversion"]
    assert len(pairs) >= 2
    for place, row in enumerate(pairs):
        for side, name in (("src", "source_image_id"), ("trg", "target_image_id")):
            (tmp_path / "ffhq" / side).mkdir(parents=True, exist_ok=True)
            photo = smoke_lake.folder / "photos" / f"{row[name]}.jpg"
            shutil.copy(photo, tmp_path / "ffhq" / side / f"{place:06d}.jpg")
    base = tmp_path / "project"
    said = swap(
        *("--ffhq_base_path", tmp_path / "ffhq", "--base_path", base, "--run_name", "mine", "--ckpt", "6"),
        *("--method", "teacher_inversion", "--grid"),
    )
    folder = base / "results/mine_ckpt6_gs1.0_imgGS1.0_idGS1.0/ffhq_eval/invFix_noID_trgCond_2"
    assert said["out"] == str(folder)
    for place, row in enumerate(pairs):
        stored = decode_upright(row["swap"]).astype(int)
        assert np.abs(pixels(folder / f"{place:06d}.png") - stored).max() <= 1
        assert (folder / "grid" / f"{place:06d}_grid.png").is_file()


def test_condition_images_of_the_tree_are_read_where_it_has_them(swap, smoke_lake, tmp_path: Path) -> None:
    tree = tmp_path / "ffhq"
    conditions = tree / "trg" / "condition_blended_image_blurdownsample8_segGlass_landmark"
    conditions.mkdir(parents=True)
    (tree / "src").mkdir()
    for place in range(2):
        for side, person in (("src", 2), ("trg", 3)):
            photo = smoke_lake.folder / "photos" / f"w00000{person}" / f"000{place + 1}_01.jpg"
            shutil.copy(photo, tree / side / f"{place}.jpg")
    Image.new("RGB", (160, 160)).save(conditions / "0.png")
    flags = ("--ffhq_base_path", tree, "--condition_type", "blur_landmark", "--steps", 1)
    said = swap(*flags, "-o", tmp_path / "read", code=1)
    assert (said["swapped"], said["reasons"]) == (1, {"unreadable": 1})
    drawn = swap(*flags, "--render-conditions", "-o", tmp_path / "drawn")
    assert (drawn["swapped"], drawn["failed"]) == (2, 0)
    assert changed(pixels(tmp_path / "read/0.png"), pixels(tmp_path / "drawn/0.png")).mean() > 0.3


def test_a_folder_goes_on_where_it_stopped_and_one_bad_pair_stops_nothing(
    swap, smoke_lake, tmp_path: Path
) -> None:
    # the person mask finds nobody in the close-up w000004/0001_01
    for side, person, later in (("a", 3, 0), ("b", 4, 1)):
        (tmp_path / side).mkdir()
        photos = smoke_lake.folder / "photos" / f"w00000{person}"
        for photo in range(1, 4):
            shutil.copy(photos / f"000{photo + later}_01.jpg", tmp_path / side / f"000{photo}_01.jpg")
    Image.new("RGB", (160, 160), (90, 90, 90)).save(tmp_path / "a" / "0002_01.jpg")
    (tmp_path / "b" / "lonely.jpg").write_bytes(b"")
    (tmp_path / "b" / "notes.txt").write_text("no photograph")
    line = (tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    first = swap(*line, code=1)
    assert (first["swapped"], first["skipped"], first["reasons"]) == (2, 0, {"no_face": 1, "unreadable": 1})
    entries = {entry["name"]: entry for entry in lines(first["manifest"])}
    assert entries["0002_01"]["detail"].startswith("source: no face")
    assert entries["lonely"]["reason"] == "unreadable"
    alone = tmp_path / "alone.png"
    swap(tmp_path / "a/0003_01.jpg", tmp_path / "b/0003_01.jpg", "-o", alone)
    together = pixels(tmp_path / "out/0003_01.png")
    assert np.abs(pixels(alone).astype(int) - together).max() <= 1
    # a kill: one result lost, another half written, the last line of the manifest torn
    before = (tmp_path / "out/0001_01.png").read_bytes()
    (tmp_path / "out/0001_01.png").write_bytes(before[:100])
    with Path(first["manifest"]).open("a") as file:
        file.write('{"name": "00')
    second = swap(*line, code=1)
    assert (second["swapped"], second["skipped"], second["failed"]) == (1, 1, 2)
    assert (tmp_path / "out/0001_01.png").read_bytes() == before
    # mended photographs are tried again, and other settings make everything anew
    shutil.copy(tmp_path / "a/0001_01.jpg", tmp_path / "a/0002_01.jpg")
    (tmp_path / "b/lonely.jpg").unlink()
    third = swap(*line)
    assert (third["swapped"], third["skipped"], third["failed"]) == (1, 2, 0)
    assert swap(*line, "--seed", 1)["swapped"] == 3
    assert len(lines(first["manifest"])) == 4 + 3 + 1 + 3
    assert (tmp_path / "out/0001_01.png").read_bytes() != before


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_checkpoint_by_hand_is_loaded_strictly(swap, smoke_lake, source: Path, tmp_path: Path) -> None:
    """The lake's own student from a folder: with its manifest, as a bare LoRA file, and damaged."""
    target = smoke_lake.folder / "photos" / "w000004" / "0002_01.jpg"
    student = smoke_lake.lake.current_artifact("student")
    folder = smoke_lake.lake.fetch(student.location)
    usual = swap(source, target, "-o", tmp_path / "usual.png", "--raw-frame")
    given = swap(
        source,
        target,
        "-o",
        tmp_path / "given.png",
        "--raw-frame",
        "--checkpoint_path",
        folder,
        "--model_id",
        resolve("tiny_base").path,
    )
    assert given["model_id"] == usual["model_id"] == folder.name
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "default.safetensors", bare)
    line = (source, target, "-o", tmp_path / "bare.png", "--raw-frame", "--checkpoint_path", bare)
    done = swap(*line, json_output=False)
    assert "nothing tells which condition it was trained with" in done.stderr
    for name in ("given", "bare"):
        np.testing.assert_array_equal(pixels(tmp_path / f"{name}.png"), pixels(tmp_path / "usual.png"))
    done = swap(
        *(source, target, "-o", tmp_path / "odd.png", "--checkpoint_path", folder, "--steps", 1),
        *("--condition_type", "mask_landmark_iris"),
        json_output=False,
    )
    assert "trained as a student, on whole pictures, and is used as a teacher" in done.stderr
    assert "this profile trains with condition_blended_image_blurdownsample4" in done.stderr
    damaged = bytearray((bare / "default.safetensors").read_bytes())
    header = int.from_bytes(damaged[:8], "little")
    damaged[8 : 8 + header] = damaged[8 : 8 + header].replace(b"lora_B", b"lora_C", 1)
    (bare / "default.safetensors").write_bytes(damaged)
    assert "cannot be used" in str(swap(*line, code=1).exception)
    assert "is no base" in str(swap(source, target, "--model_id", "someone/else", code=1).exception)


def test_a_photograph_of_high_depth_and_an_unusable_one(
    swap, group: Group, source: Path, tmp_path: Path
) -> None:
    deep = (group.pixels[..., ::-1].astype(np.uint16) << 8) | 0x5A
    (tmp_path / "deep.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    swap(source, tmp_path / "deep.png", "-o", tmp_path / "out.png", "--save-mask", "--feather", 0)
    result, mask = pixels(tmp_path / "out.png"), pixels(tmp_path / "out_mask.png")[..., 0] > 0
    np.testing.assert_array_equal(result[~mask], group.pixels[~mask])
    (tmp_path / "cut.jpg").write_bytes(group.photo.read_bytes()[:-2000])
    assert "target: " in str(swap(source, tmp_path / "cut.jpg", code=1).exception)
    buffer = io.BytesIO()
    Image.new("RGB", (160, 160)).save(buffer, "GIF")
    (tmp_path / "moving.gif").write_bytes(buffer.getvalue())
    assert "unsupported_format" in str(swap(tmp_path / "moving.gif", group.photo, code=1).exception)
