"""Reading a clip: frames one by one, upright and at their own times; sound as packets that nobody opens.

FFmpeg's libraries do it through PyAV. Only files of `CONTAINERS` are opened, and nothing that they point at:
a playlist in disguise must not make this machine fetch anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.photos.decoding import DEFAULT_LIMITS

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""FFmpeg's names of the containers that are opened."""


class ClipError(ValueError):
    """A clip cannot be read, or not be written as asked."""


@dataclass(frozen=True)
class ClipFrame:
    """One picture of a clip.

    Attributes:
        index: its place, from 0, in the order of showing.
        pts: when it is shown, in time bases of the clip.
        duration: how long, in the same; 0 where the file does not say.
        image: uint8 RGB (H, W, 3), upright.
    """

    index: int
    pts: int
    duration: int
    image: np.ndarray


@dataclass(frozen=True)
class ClipColour:
    """Tags of H.273 that say what a clip's numbers mean: matrix, range, primaries and transfer."""

    matrix: int
    range: int
    primaries: int
    transfer: int


class ClipReader:
    """A clip, read from its start to its end; a context manager that yields frames and packets of sound.

    Args:
        path: the file.

    Attributes:
        width, height: of the upright frames, pixels.
        time_base: seconds per unit of `ClipFrame.pts`.
        rate: mean frames per second.
        colour: tags of the pictures.
        aspect: width of an upright pixel by its height.
        sound: streams of sound, whose packets are yielded.
        left_out: kinds of the streams that are not.

    Raises:
        ClipError: the file is no clip that can be read, has no pictures, or has too large ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        first = self._first_frame()
        self._size, self._turn = (first.width, first.height), _turn(first, path)
        sideways = self._turn is not None and self._turn[0]
        self.width, self.height = self._size[::-1] if sideways else self._size
        self.colour = ClipColour(first.colorspace, first.color_range, first.color_primaries, first.color_trc)
        if self.width * self.height > DEFAULT_LIMITS.max_pixels:
            raise ClipError(f"{path}: {self.width} x {self.height} pixels a frame are too many")
        self._container = self._open()
        self._video = self._pictures(self._container)
        self._video.thread_type = "AUTO"
        if self._video.time_base is None:
            raise ClipError(f"{path}: its pictures have no time base")
        self.time_base: Fraction = self._video.time_base
        self.rate = self._video.average_rate or Fraction(25)
        aspect = Fraction(self._video.sample_aspect_ratio or 1)
        self.aspect = 1 / aspect if sideways and aspect else aspect
        self.sound = list(self._container.streams.audio)
        taken = [self._video, *self.sound]
        self.left_out = [str(stream.type) for stream in self._container.streams if stream not in taken]

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[ClipFrame | av.Packet[Any]]:
        """Frames in the order of showing, and packets of sound as they lie in the file.

        Raises ClipError for pictures that do not decode, have no time, or change their size.
        """
        index, last = 0, None
        try:
            for packet in self._container.demux(self._video, *self.sound):
                if packet.stream.type == "audio":
                    if packet.dts is not None:  # the last packet of a stream is an empty one
                        yield packet
                    continue
                for frame in self._video.decode(packet):
                    pts = frame.dts if frame.pts is None else frame.pts
                    if pts is None or (last is not None and pts <= last):
                        raise ClipError(f"{self.path}: frame {index} has no time after the one before it")
                    yield ClipFrame(index, pts, frame.duration or 0, self._upright(frame, index))
                    index, last = index + 1, pts
        except FFmpegError as error:
            raise ClipError(f"{self.path}: cannot be read after frame {index}: {error}") from error

    def _upright(self, frame: VideoFrame, index: int) -> np.ndarray:
        if (frame.width, frame.height) != self._size:
            raise ClipError(f"{self.path}: frame {index} has another size than those before it")
        image = rgb_of_frame(frame)
        if self._turn is None:
            return image
        sideways, mirror_x, mirror_y = self._turn
        image = image.transpose(1, 0, 2) if sideways else image
        return np.ascontiguousarray(image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])

    def _open(self) -> InputContainer:
        try:
            return av.open(
                str(self.path), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
            )
        except (FFmpegError, OSError) as error:
            raise ClipError(f"{self.path} is no clip that can be read: {error}") from error

    def _pictures(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise ClipError(f"{self.path} holds no pictures")
        return container.streams.video[0]

    def _first_frame(self) -> VideoFrame:
        with self._open() as container:
            try:
                for frame in container.decode(self._pictures(container)):
                    return frame
            except FFmpegError as error:
                raise ClipError(f"{self.path}: its pictures cannot be decoded: {error}") from error
        raise ClipError(f"{self.path} holds no picture")


def rgb_of_frame(frame: VideoFrame) -> np.ndarray:
    """A decoded frame as uint8 RGB (H, W, 3), by its own matrix and range; not turned."""
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def side_data(frame: VideoFrame, kind: SideDataType) -> list[bytes]:
    """What stands beside a decoded picture, of one kind."""
    # PyAV's stub calls it a mapping, while it runs through the items
    items = cast(Iterable[SideData], frame.side_data)
    return [bytes(item) for item in items if item.type == kind]


def _turn(frame: VideoFrame, path: Path) -> tuple[bool, bool, bool] | None:
    """How a picture gets upright: rows and columns exchanged, then mirrored left-right, top-bottom.

    The display matrix of ISO 14496-12 takes (x, y) to (a x + c y, b x + d y).
    """
    found = side_data(frame, SideDataType.DISPLAYMATRIX)
    if not found:
        return None
    a, b, _, c, d = np.frombuffer(found[0][:36], np.int32)[:5]
    if b == c == 0 and a and d:
        return False, bool(a < 0), bool(d < 0)
    if a == d == 0 and b and c:
        return True, bool(c < 0), bool(b < 0)
    raise ClipError(f"{path}: its pictures are turned by an angle that is no quarter; turn it upright first")
