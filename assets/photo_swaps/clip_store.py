"""What is kept of a clip under way: per frame a record and the swapped part, so that a killed run goes on.

The folder lies beside the result, named after it and the digest of everything that decides the pictures. A
frame counts once its record is there; the record is written last and tells the picture's digest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets.photo_swaps.manifest import write_whole
from models.faces.images import Image, Mask
from models.faces.tracking import Track
from resources.lake.errors import LakeError
from resources.photos.decoding import decode_upright
from resources.photos.marking import Mark, mark_png

DIGEST_CHARACTERS = 16


class FollowState(BaseModel):
    """What is known after a frame; all that the next one needs of those before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracks: tuple[Track, ...] = Field(default=(), description="Everybody who is followed.")
    chosen: tuple[int, ...] | None = Field(
        default=None, description="Numbers of the tracks to swap; None until the chosen face has appeared."
    )


class FaceOutcome(BaseModel):
    """What became of a chosen face in a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    face: int | None = Field(default=None, description="Number of its track; None before it has appeared.")
    box: tuple[float, ...] | None = Field(default=None, description="(x0, y0, x1, y1) pixels, where found.")
    reason: str | None = Field(default=None, description="Typed reason why it was not swapped.")
    detail: str | None = Field(default=None, description="What exactly was wrong.")


class FrameRecord(BaseModel):
    """One finished frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0, description="Place in the clip, from 0.")
    pts: int = Field(description="When it is shown, in the clip's time bases.")
    faces: tuple[FaceOutcome, ...] = Field(description="Every chosen face.")
    state: FollowState = Field(description="What is known after it.")
    corner: tuple[int, int] | None = Field(
        default=None, description="Column and row of the swapped part's upper left pixel; None without one."
    )
    sha256: str | None = Field(default=None, description="Digest of the swapped part's file.")


class ClipStore:
    """The folder of a clip under way; a context manager that keeps a second run out of it.

    Args:
        out: the result; the folder's name follows it.
        digest: of everything that decides the pictures.
        mark: what every kept picture says about itself.

    Raises:
        LakeError: on entering, where another process is at work on the same clip.
    """

    def __init__(self, out: Path, digest: str, mark: Mark) -> None:
        self.folder = out.with_name(f".{out.name}.{digest[:DIGEST_CHARACTERS]}")
        self._mark = mark
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ClipStore:
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise LakeError(f"another process is at work in {self.folder}; wait for it") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def unfinished(self) -> Path:
        """Where the result is written until it is whole."""
        return self.folder / "unfinished.mp4"

    def load(self, index: int, pts: int) -> tuple[FrameRecord, Image | None] | None:
        """A finished frame's record and swapped part; None where there is none, or it is damaged."""
        record_file, part_file = self._files(index)
        if not record_file.is_file():
            return None
        try:
            record = FrameRecord.model_validate_json(record_file.read_bytes())
        except ValidationError:
            return None
        if (record.index, record.pts) != (index, pts):
            return None
        if record.sha256 is None:
            return record, None
        data = part_file.read_bytes() if part_file.is_file() else b""
        return (record, decode_upright(data)) if sha256(data).hexdigest() == record.sha256 else None

    def save(self, record: FrameRecord, picture: Image, mask_HW: Mask) -> tuple[FrameRecord, Image | None]:
        """Keep a frame: of `picture` the rectangle around `mask_HW`; what `load` would give."""
        record_file, part_file = self._files(record.index)
        part = None
        if mask_HW.any():
            rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
            part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            changes = {
                "corner": (int(columns[0]), int(rows[0])),
                "sha256": write_whole(part_file, mark_png(part, self._mark)),
            }
            record = record.model_copy(update=changes)
        write_whole(record_file, record.model_dump_json().encode())
        return record, part

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _files(self, index: int) -> tuple[Path, Path]:
        return self.folder / f"{index:08d}.json", self.folder / f"{index:08d}.png"


def with_part(image: Image, record: FrameRecord, part: Image | None) -> Image:
    """The frame with its swapped part."""
    if part is None or record.corner is None:
        return image
    (x, y), (height, width) = record.corner, part.shape[:2]
    result = image.copy()
    result[y : y + height, x : x + width] = part
    return result
