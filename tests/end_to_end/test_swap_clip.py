"""`orchard swap` on clips: two rendered people who cross, with sound; a kill in between; empty frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from PIL import Image
from typer.testing import CliRunner

from assets.photo_swaps.face_by_face import FaceByFaceSwapper
from models.worlds.parameters import Attributes, Identities
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import render
from pipeline.cli import app
from resources.photos.marking import read_mark
from resources.video.marking import read_clip_mark, read_frame_notes

ROOT = Path(__file__).resolve().parents[2]
CONSENT = "rendered faces, nobody is shown"
FACE, FRAMES, RATE = 128, 24, 8
HEIGHT, WIDTH = 136, 420
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@dataclass(frozen=True)
class Crossing:
    """A clip of three seconds: `heads` says where the left and the right person are in every frame, with a
    margin; the left one walks in front to the right, and is the one to swap."""

    path: Path
    frames: list[np.ndarray]
    heads: list[tuple[np.ndarray, np.ndarray]]


def walked(frame: int) -> int:
    """Pixels that both have gone."""
    return round(frame * (WIDTH - FACE - 8) / (FRAMES - 1))


def write_clip(path: Path, frames: Sequence[np.ndarray], *, sound: bool) -> Path:
    """Frames without loss at 8 a second, and a sine."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264rgb", RATE, {"qp": "0"})
        assert isinstance(video, VideoStream)
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "rgb24"
        audio = container.add_stream("aac", 44100, layout="mono") if sound else None
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            assert isinstance(audio, AudioStream)
            seconds = np.arange(44100 * len(frames) // RATE) / 44100
            wave = (np.sin(seconds * 2 * np.pi * 440) * 20000).astype(np.int16)
            noise = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            noise.sample_rate, noise.pts = 44100, 0
            container.mux(audio.encode(noise))
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Crossing:
    people = sample_identities(3, 4).values[[0, 2]]
    settings = sample_attributes(23, 4, crops=("portrait",), occluded=0.0).values[[0, 2]]
    faces = render(Identities(people), Attributes(settings), FACE)
    frames, heads = [], []
    for index in range(FRAMES):
        scene = np.full((HEIGHT, WIDTH, 3), (120, 140, 150), np.uint8)
        where: list[np.ndarray] = []
        for person, left in ((1, WIDTH - FACE - 4 - walked(index)), (0, 4 + walked(index))):
            who = faces.parsing_NHW[person] > 0
            scene[4 : 4 + FACE, left : left + FACE][who] = faces.images_NHWC[person][who]
            head = np.zeros((HEIGHT, WIDTH), np.uint8)
            head[4 : 4 + FACE, left : left + FACE] = who
            where.append(cv2.dilate(head, np.ones((9, 9), np.uint8)) > 0)
        frames.append(scene)
        heads.append((where[1], where[0]))
    path = write_clip(tmp_path_factory.mktemp("clip") / "crossing.mp4", frames, sound=True)
    return Crossing(path, frames, heads)


@pytest.fixture
def swap(smoke_lake, swap_anywhere, monkeypatch: pytest.MonkeyPatch):
    """`orchard swap` with the smoke profile's lake."""
    monkeypatch.setenv("ORCHARD_LAKE", smoke_lake.lake.uri)
    return swap_anywhere


@pytest.fixture
def swap_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`orchard swap` in this process, where there is no lake: same command line."""
    torch.set_num_threads(1)
    monkeypatch.setenv("ORCHARD_LAKE", str(tmp_path / "no lake"))
    monkeypatch.setenv("ORCHARD_PROFILE", "smoke")

    def run(*arguments: object, code: int = 0) -> Any:
        line = ["swap", *map(str, arguments), "--consent", CONSENT, "--json"]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout) if done.stdout else done

    return run


@pytest.fixture
def source(smoke_lake) -> Path:
    return smoke_lake.folder / "photos" / "w000003" / "0001_01.jpg"


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def sound(path: Path) -> list[tuple[int | None, bytes]]:
    with av.open(str(path)) as container:
        return [(item.pts, bytes(item)) for item in container.demux(audio=0) if item.dts is not None]


def test_the_followed_face_of_two_who_cross_is_swapped_and_nothing_else(
    swap, crossing: Crossing, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    line = (source, "--target", crossing.path, "--faces", "index:0", "--lossless", "-o", out)
    said = swap(*line)
    assert (said["frames"], said["swapped"], said["computed"], said["passed"]) == (FRAMES, FRAMES, FRAMES, [])
    for index, (picture, before) in enumerate(zip(pictures(out), crossing.frames, strict=True)):
        different = (picture != before).any(axis=2)
        in_front, _ = crossing.heads[index]
        assert not different[~in_front].any(), index
        assert different[in_front].mean() > 0.3, index
    assert times(out) == times(crossing.path)
    assert sound(out) == sound(crossing.path)
    assert len(sound(out)) > 100
    # the same noise in every frame: while the face is clear of the other one, its new pixels move with it
    first, later = (pictures(out)[index][:, 4 + walked(index) :][:, :FACE].astype(int) for index in (0, 3))
    assert np.abs(first - later).mean() < 1
    mark = read_clip_mark(out)
    assert mark is not None
    assert (mark.consent, mark.stage, mark.model_id) == (CONSENT, "swap/student", said["mark"]["model_id"])
    assert all(note is not None and " swapped by " in note for note in read_frame_notes(out))
    assert json.loads((tmp_path / "out.mp4.json").read_text())["encoder"] == "libx264rgb rgb24"
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.mp4.json"}


def test_all_faces_of_a_clip_are_swapped(swap, crossing: Crossing, source: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "two.mp4", crossing.frames[:2], sound=False)
    said = swap("--source", source, clip, "--faces", "all", "--lossless", "-o", tmp_path / "out.mp4")
    assert (said["swapped"], said["passed"], said["sound"]) == (2, [], [])
    for index, picture in enumerate(pictures(tmp_path / "out.mp4")):
        different = (picture != crossing.frames[index]).any(axis=2)
        first, second = crossing.heads[index]
        assert min(different[first].mean(), different[second].mean()) > 0.3
        assert not different[~(first | second)].any()


def test_a_killed_run_goes_on_and_a_frame_without_the_face_passes(
    swap, smoke_lake, crossing: Crossing, source: Path, tmp_path: Path
) -> None:
    """Nobody in the frames 0 and 3; SIGKILL once three frames are kept, one of which is lost afterwards."""
    empty = np.full_like(crossing.frames[0], 120)
    frames = [empty, crossing.frames[0], crossing.frames[1], empty, crossing.frames[2]]
    clip = write_clip(tmp_path / "clip.mp4", frames, sound=False)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = tmp_path / "whole/out.mp4", tmp_path / "killed/out.mp4"
    said = swap(source, clip, "--faces", "index:0", "-o", whole)
    assert (said["frames"], said["swapped"], said["unchanged"], said["computed"]) == (5, 3, 2, 5)
    runs = [(item["face"], item["reason"], item["first"], item["last"]) for item in said["passed"]]
    assert runs == [(None, "no_face", 0, 0), (0, "no_face", 3, 3)]
    notes = [note is not None and " swapped by " in note for note in read_frame_notes(whole)]
    assert notes == [False, True, True, False, True]

    line = [sys.executable, "-m", "pipeline.cli", "swap", source, clip, "--faces", "index:0", "-o", killed]
    surroundings = {
        **os.environ,
        "ORCHARD_CRASH_AT": "mid_clip:3",
        "ORCHARD_LAKE": smoke_lake.lake.uri,
        "ORCHARD_PROFILE": "smoke",
        "OMP_NUM_THREADS": "1",
    }
    command = [*map(str, line), "--consent", CONSENT]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (store,) = killed.parent.iterdir()
    kept = sorted(path.name for path in store.iterdir() if path.name != "unfinished.mp4")
    assert kept == [
        "00000000.json",
        *(f"0000000{index}.{kind}" for index in (1, 2) for kind in ("json", "png")),
    ]
    assert read_mark((store / "00000001.png").read_bytes()) is not None
    (store / "00000001.png").unlink()
    again = swap(source, clip, "--faces", "index:0", "-o", killed)
    assert (again["computed"], again["kept"]) == (3, 2)
    assert killed.read_bytes() == whole.read_bytes()
    assert {path.name for path in killed.parent.iterdir()} == {"out.mp4", "out.mp4.json"}
    assert swap(source, clip, "--faces", "index:0", "-o", killed)["computed"] == 0
    refused = swap(source, clip, "--faces", "index:4", "-o", tmp_path / "none.mp4", code=1)
    assert "none of 5 frames could be swapped" in str(refused.exception)


@pytest.mark.parametrize("method", ["diffface", "mesh_warp"])
def test_methods_without_a_checkpoint_swap_clips_and_go_on_after_an_interruption(
    swap_anywhere, crossing: Crossing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Three frames and no lake; the second run is interrupted in the third, the next takes it up there."""
    swap, source = swap_anywhere, tmp_path / "source.png"
    face = render(sample_identities(5, 1), sample_attributes(5, 1, crops=("portrait",), occluded=0.0), FACE)
    Image.fromarray(face.images_NHWC[0]).save(source)
    clip = write_clip(tmp_path / "clip.mp4", crossing.frames[:3], sound=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole, stopped = tmp_path / "whole/out.mp4", tmp_path / "stopped/out.mp4"
    line = (source, "--target", clip, "--method", method, "--faces", "index:0", "--lossless", "-o")
    said = swap(*line, whole)
    assert (said["frames"], said["swapped"], said["computed"], said["passed"]) == (3, 3, 3, [])
    for index, (picture, before) in enumerate(zip(pictures(whole), crossing.frames, strict=False)):
        different = (picture != before).any(axis=2)
        chosen, _ = crossing.heads[index]
        assert not different[~chosen].any(), index
        assert different[chosen].mean() > 0.15, index
    assert sound(whole) == sound(clip)
    mark = read_clip_mark(whole)
    assert mark is not None
    assert (mark.consent, mark.stage, mark.model_id) == (CONSENT, f"swap/{method}", said["mark"]["model_id"])
    assert mark.model_id.startswith(method)

    swapped_frames, swap_faces = [], FaceByFaceSwapper.swap_faces

    def interrupted(swapper, *arguments: Any) -> Any:
        if len(swapped_frames) == 2:
            raise KeyboardInterrupt
        swapped_frames.append(swap_faces(swapper, *arguments))
        return swapped_frames[-1]

    with monkeypatch.context() as patch:
        patch.setattr(FaceByFaceSwapper, "swap_faces", interrupted)
        swap(*line, stopped, code=INTERRUPTED)
    assert not stopped.exists()
    again = swap(*line, stopped)
    assert (again["computed"], again["kept"]) == (1, 2)
    assert stopped.read_bytes() == whole.read_bytes()
    other = swap(*line, stopped, "--seed", "5")
    assert other["computed"] == 3
    same = all(np.array_equal(*pair) for pair in zip(pictures(stopped), pictures(whole), strict=True))
    assert same == (method == "mesh_warp")  # which has no noise
