"""Writing a made clip: H.264 in MP4, the sound's packets as they were, every picture at its own time."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.photos.marking import Mark
from resources.video.marking import append_mark, comment_of, frame_note, note_unit
from resources.video.reading import ClipError, ClipFrame, ClipReader

QUALITY = 16
"""x264's constant rate factor; 18 is held to be visually lossless, and a swap is often encoded again."""

THREADS = 4
"""x264's result depends on the number of its threads, so it does not follow the machine."""


def encoder_name(*, lossless: bool) -> str:
    """FFmpeg's name of the encoder that is used."""
    return "libx264rgb" if lossless else "libx264"


class ClipWriter:
    """An MP4 file under way; a context manager. Without `finish` the file is worth nothing.

    Args:
        path: file to write; its name decides nothing.
        clip: whose times, colours and sound are kept.
        mark: what the clip says about itself.
        lossless: RGB without loss (x264's, quantiser 0), so that the same bits are decoded again.

    Raises:
        ClipError: sound of the clip cannot lie in an MP4 file.
    """

    def __init__(self, path: Path, clip: ClipReader, mark: Mark, *, lossless: bool) -> None:
        self._path, self._clip, self._mark, self._lossless = path, clip, mark, lossless
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        options = {"qp": "0"} if lossless else {"crf": str(QUALITY)}
        video = self._container.add_stream(encoder_name(lossless=lossless), clip.rate, options)
        assert isinstance(video, VideoStream)  # what these encoders make
        even = clip.width % 2 == 0 and clip.height % 2 == 0
        self.pixel_format = "rgb24" if lossless else "yuv420p" if even else "yuv444p"
        video.width, video.height, video.pix_fmt = clip.width, clip.height, self.pixel_format
        context = video.codec_context
        context.thread_count = THREADS
        context.time_base = video.time_base = clip.time_base
        context.color_primaries, context.color_trc = clip.colour.primaries, clip.colour.transfer
        if not lossless:
            context.colorspace, context.color_range = clip.colour.matrix, clip.colour.range
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        self._video = video
        self._notes: dict[int, tuple[bytes, int]] = {}
        self._sound = {stream.index: self._copied(stream) for stream in clip.sound}
        self._container.metadata["comment"] = comment_of(mark)
        try:
            self._container.start_encoding()
        except (FFmpegError, ValueError) as error:
            names = ", ".join(stream.codec_context.name for stream in clip.sound) or "none"
            raise ClipError(f"{clip.path} cannot be written as MP4 (its sound: {names}): {error}") from error

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def write(self, frame: ClipFrame, image: np.ndarray, *, swapped: bool) -> None:
        """Add a picture, uint8 RGB (H, W, 3), in the place and at the time of `frame`."""
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if not self._lossless:
            colour = self._clip.colour
            picture = picture.reformat(
                format=self.pixel_format,
                dst_colorspace=colour.matrix if colour.matrix in _MATRICES else None,
                dst_color_range=colour.range,
            )
        picture.pts, picture.time_base, picture.duration = frame.pts, self._clip.time_base, frame.duration
        self._notes[frame.pts] = (note_unit(frame_note(self._mark, swapped=swapped)), frame.duration)
        self._mux(self._video.encode(picture))

    def copy(self, packet: av.Packet[Any]) -> None:
        """Add a packet of sound as it is."""
        packet.stream = self._sound[packet.stream.index]
        self._container.mux_one(packet)

    def finish(self) -> None:
        """Close the file, mark it, and see it onto the disk."""
        self._mux(self._video.encode())
        self._container.close()
        append_mark(self._path, self._mark)
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            assert packet.pts is not None  # x264 tells the time of every picture
            note, duration = self._notes.pop(packet.pts)
            marked = av.Packet(note + bytes(packet))
            marked.stream, marked.time_base = self._video, packet.time_base or self._clip.time_base
            marked.pts, marked.dts, marked.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
            marked.duration = duration or packet.duration
            self._container.mux_one(marked)

    def _copied(self, stream: AudioStream) -> AudioStream:
        try:
            return self._container.add_stream_from_template(stream)
        except (FFmpegError, ValueError) as error:
            raise ClipError(
                f"{self._clip.path}: its sound ({stream.codec_context.name}) cannot lie in an MP4 file; "
                f"convert the sound to AAC first ({error})"
            ) from error


_MATRICES = (1, 4, 5, 6, 7, 9)
"""Matrices of H.273 that FFmpeg converts to; pictures of another go there and back by its own choice."""
