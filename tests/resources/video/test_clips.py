"""Clips: times, sound, turns and colours kept; marks that are found again; files that are refused."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from resources.photos.marking import Mark
from resources.video.marking import note_unit, read_clip_mark, read_frame_notes
from resources.video.reading import ClipError, ClipFrame, ClipReader
from resources.video.writing import ClipWriter

MARK = Mark(
    version="1.0",
    model_id="0123456789abcdef",
    stage="swap/student",
    source_image_id="a.png",
    target_image_id="b.mp4",
    consent="rendered, <nobody> & no one",
)
TICKS = Fraction(1, 600)
TIMES = [30, 80, 117, 167, 217, 254, 304, 900]
"""Uneven, and not from 0 on."""


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    turned: int = 0,
    sound: str = "aac",
    tags: Mapping[str, int] = {},
) -> Path:
    """Eight pictures that tell their four corners apart, and a second of a sine; H.264 with B-frames."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", options={"crf": "1"})
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = (*size, "yuv444p")
        video.codec_context.time_base = video.time_base = TICKS
        for name, value in tags.items():
            setattr(video.codec_context, name, value)
        if turned:
            video.set_display_rotation(turned)
        audio = container.add_stream(sound, rate=44100, layout="mono") if sound else None
        for index, time in enumerate(TIMES):
            image = np.full((size[1], size[0], 3), 20 + 25 * index, np.uint8)
            image[:16, :20], image[:16, -20:], image[-16:, :20] = (250, 10, 10), (10, 250, 10), (10, 10, 250)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv444p",
                dst_colorspace=tags.get("colorspace"),
                dst_color_range=tags.get("color_range"),
            )
            frame.pts, frame.time_base = time, TICKS
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            assert isinstance(audio, AudioStream)
            wave = (np.sin(np.arange(44100) * 2 * np.pi * 440 / 44100) * 20000).astype(np.int16)
            noise = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            noise.sample_rate, noise.pts = 44100, 0
            container.mux(audio.encode(noise))
            container.mux(audio.encode())
    return path


def through(clip: Path, out: Path, *, lossless: bool = False) -> list[np.ndarray]:
    """Read a clip and write it again, every second picture called swapped; what was read."""
    seen = []
    with ClipReader(clip) as reader, ClipWriter(out, reader, MARK, lossless=lossless) as writer:
        for item in reader:
            if isinstance(item, ClipFrame):
                seen.append(item.image)
                writer.write(item, item.image, swapped=item.index % 2 == 0)
            else:
                writer.copy(item)
        writer.finish()
    return seen


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [(frame.pts or 0) * (frame.time_base or TICKS) for frame in container.decode(video=0)]


def sound(path: Path) -> list[tuple[Any, ...]]:
    with av.open(str(path)) as container:
        return [
            ((packet.pts or 0) * packet.time_base, (packet.duration or 0) * packet.time_base, bytes(packet))
            for packet in container.demux(audio=0)
            if packet.dts is not None
        ]


@pytest.mark.parametrize("lossless", [False, True])
def test_times_and_sound_stay_and_pictures_to_the_bit_without_loss(tmp_path: Path, lossless: bool) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    before = decoded(clip)
    seen = through(clip, tmp_path / "out.mp4", lossless=lossless)
    assert times(tmp_path / "out.mp4") == times(clip) == [time * TICKS for time in TIMES]
    assert sound(tmp_path / "out.mp4") == sound(clip)
    assert len(sound(clip)) > 40
    after = decoded(tmp_path / "out.mp4")
    np.testing.assert_array_equal(seen, before)
    if lossless:
        np.testing.assert_array_equal(after, before)
    else:
        assert np.abs(np.array(after) - before).mean() < 2


def test_a_clip_without_sound_with_odd_sides_in_another_container(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", size=(65, 49), sound="")
    through(clip, tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == times(clip)
    after = np.array(decoded(tmp_path / "out.mp4"))
    assert after.shape == (8, 49, 65, 3)
    assert np.abs(after - decoded(clip)).mean() < 2


@pytest.mark.parametrize("turned", [90, -90, 180])
def test_a_turned_clip_comes_out_upright(tmp_path: Path, turned: int) -> None:
    """As FFmpeg's own program turns it."""
    clip = make_clip(tmp_path / "clip.mp4", turned=turned)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(clip), "-frames:v", "1"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True).stdout
    upright = (48, 64, 3) if turned == 180 else (64, 48, 3)
    seen = through(clip, tmp_path / "out.mp4", lossless=True)
    assert np.abs(seen[0].astype(int) - np.frombuffer(raw, np.uint8).reshape(upright)).max() <= 1
    np.testing.assert_array_equal(decoded(tmp_path / "out.mp4"), seen)


@pytest.mark.parametrize("tags", [{"colorspace": 1, "color_range": 1}, {"colorspace": 5, "color_range": 2}])
def test_colours_keep_their_matrix_and_range(tmp_path: Path, tags: dict[str, int]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", tags=tags | {"color_primaries": 1, "color_trc": 1})
    seen = through(clip, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (tags["colorspace"], tags["color_range"])
        assert (frame.color_primaries, frame.color_trc) == (1, 1)
    # flat parts, away from the edges that 4:2:0 blurs: the drawn colours, and those read from the result
    after = decoded(tmp_path / "out.mp4")
    for corner, colour in (((5, 5), (250, 10, 10)), ((5, 58), (10, 250, 10)), ((43, 5), (10, 10, 250))):
        assert np.abs(seen[0][corner].astype(int) - colour).max() <= 6
        assert np.abs(after[0][corner] - colour).max() <= 10


def test_the_file_and_every_picture_say_what_they_are(tmp_path: Path) -> None:
    clip, out = make_clip(tmp_path / "clip.mp4"), tmp_path / "out.mp4"
    assert read_clip_mark(clip) is None
    assert read_frame_notes(clip) == [None] * 8
    through(clip, out)
    assert read_clip_mark(out) == MARK
    notes = read_frame_notes(out)
    assert [note is not None and " swapped by Orchard 1.0 " in note for note in notes] == [True, False] * 4
    assert all(note and "compositeWithTrainedAlgorithmicMedia" in note for note in notes)
    with av.open(str(out)) as container:
        assert "consent: rendered, <nobody> & no one" in container.metadata["comment"]
    # a copy into another container keeps the notes and the comment; new pictures keep the comment alone
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(out)]
    subprocess.run([*ffmpeg, "-c", "copy", str(tmp_path / "copy.mkv")], check=True)
    subprocess.run([*ffmpeg, "-c:v", "mpeg4", str(tmp_path / "again.mp4")], check=True)
    assert read_frame_notes(tmp_path / "copy.mkv") == notes
    assert read_frame_notes(tmp_path / "again.mp4") == [None] * 8
    assert read_clip_mark(tmp_path / "again.mp4") is None
    for name, key in (("copy.mkv", "COMMENT"), ("again.mp4", "comment")):
        with av.open(str(tmp_path / name)) as container:
            assert MARK.model_id in container.metadata[key]


def test_a_note_never_looks_like_a_start_code() -> None:
    unit = note_unit("a\0\0\1b\0\0\0\0" + "c" * 300)
    assert unit.count(b"\0\0\0\1") == 1
    assert b"\0\0\1" not in unit[4:]
    assert unit[4:].replace(b"\0\0\3", b"\0\0")[2 + 2 + 16 :] == b"a\0\0\1b\0\0\0\0" + b"c" * 300 + b"\x80"


def test_what_is_no_clip_is_refused_with_a_sentence(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    (tmp_path / "text.mp4").write_text("no clip")
    for name in ("list.mp4", "text.mp4", "absent.mp4"):
        with pytest.raises(ClipError, match="no clip that can be read"):
            ClipReader(tmp_path / name)
    make_clip(tmp_path / "slanted.mp4", turned=30)
    with pytest.raises(ClipError, match="no quarter"):
        ClipReader(tmp_path / "slanted.mp4")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-400])
    with pytest.raises(ClipError, match="no clip that can be read"):
        through(tmp_path / "cut.mp4", tmp_path / "out.mp4")


def test_sound_that_mp4_cannot_hold_is_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mov", sound="pcm_mulaw")
    with ClipReader(clip) as reader, pytest.raises(ClipError, match="pcm_mulaw"):
        ClipWriter(tmp_path / "out.mp4", reader, MARK, lossless=False)
