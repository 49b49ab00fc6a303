"""Swapping a clip: frame by frame, kept as it goes, written only when whole, with a manifest beside it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets.photo_swaps.clip_frames import FrameSwapper, SwapsFrames
from assets.photo_swaps.clip_store import ClipStore, FrameRecord, with_part
from assets.photo_swaps.manifest import write_whole
from assets.photo_swaps.pairs import PhotoPair
from assets.photo_swaps.run import photo_id, settings_digest
from assets.swapping import picture_mark
from models.faces import tracking
from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.photos.marking import Mark
from resources.photos.names import escape
from resources.photos.reasons import RowError
from resources.video.reading import ClipError, ClipFrame, ClipReader
from resources.video.writing import ClipWriter, encoder_name

REPORT_SECONDS = 10.0
"""Time between two sentences about how far a clip is."""


class PassedFrames(BaseModel):
    """Frames in a row in which a face was not swapped, for one reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    face: int | None = Field(description="Number of the followed face; None before it has appeared.")
    reason: str = Field(description="Typed reason.")
    detail: str = Field(description="What exactly was wrong, in the first of them.")
    first: int = Field(description="Index of the first frame.")
    last: int = Field(description="Index of the last frame.")


class ClipManifest(BaseModel):
    """What a finished clip was made from, and what became of its frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mark: Mark = Field(description="What the clip says about itself.")
    key: str = Field(description="Digest of everything that decides the pictures.")
    lossless: bool = Field(description="Whether the pictures are kept to the bit.")
    encoder: str = Field(description="Encoder and pixel format.")
    sha256: str = Field(description="Digest of the clip.")
    frames: int = Field(description="Frames of the clip.")
    swapped: int = Field(description="Frames in which at least one face was swapped.")
    unchanged: int = Field(description="Frames that passed as they were.")
    passed: tuple[PassedFrames, ...] = Field(description="Where a chosen face was not swapped, and why.")
    sound: tuple[str, ...] = Field(description="Codec of every stream of sound; all were copied.")
    left_out: tuple[str, ...] = Field(description="Kinds of the streams that were not.")

    @property
    def reasons(self) -> Mapping[str, int]:
        """Frames that were not swapped in one of their faces, by reason."""
        found: Counter[str] = Counter()
        for item in self.passed:
            found[item.reason] += item.last - item.first + 1
        return found


class ClipResult(BaseModel):
    """What a run did."""

    model_config = ConfigDict(frozen=True)

    manifest: ClipManifest
    computed: int = Field(description="Frames that went through the models in this run.")
    kept: int = Field(description="Frames that an earlier run had finished.")


def manifest_path(out: Path) -> Path:
    """Where a clip's manifest lies."""
    return out.with_name(f"{out.name}.json")


def swap_clip(
    swapper: SwapsFrames,
    source: Path,
    clip: Path,
    out: Path,
    consent: str,
    *,
    lossless: bool = False,
    report: Callable[[str], None] = print,
) -> ClipResult:
    """Swap the chosen faces of a clip.

    A run that was killed is taken up where it stopped. A result that is there already and was made from the
    same files with the same settings is left as it is.

    Raises:
        LakeError: the source or the clip cannot be used, or no frame shows the chosen face.
    """
    try:
        with clip.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        mark = picture_mark(
            model_id=swapper.model_id,
            stage=f"swap/{swapper.settings.method}",
            source=photo_id(source),
            target=f"{escape(clip.name)} sha256:{digest[:16]}",
            consent=consent,
        )
        key = _key(swapper, source, clip, digest, consent)
        found = _finished(out, key, lossless=lossless)
        if found is not None:
            return ClipResult(manifest=found, computed=0, kept=found.frames)
        with ClipStore(out, key, mark) as store:
            report(f"finished frames are kept in {store.folder}")
            return _swap(swapper, PhotoPair(clip.stem, source, clip), out, key, store, mark, lossless, report)
    except (RowError, ClipError, OSError) as error:
        raise LakeError(f"{source} onto {clip} cannot be swapped: {error}") from error


def _swap(
    swapper: SwapsFrames,
    pair: PhotoPair,
    out: Path,
    key: str,
    store: ClipStore,
    mark: Mark,
    lossless: bool,
    report: Callable[[str], None],
) -> ClipResult:
    frames, computed, passed, swapped, told = FrameSwapper(swapper, pair), 0, _Passed(), 0, time.monotonic()
    count = 0
    with (
        ClipReader(pair.target) as clip,
        ClipWriter(store.unfinished, clip, mark, lossless=lossless) as writer,
    ):
        encoder = f"{encoder_name(lossless=lossless)} {writer.pixel_format}"
        report(
            f"{clip.width} x {clip.height} px, sound: {_names(clip) or 'none'}; written by {encoder}"
            + (f"; left out: {', '.join(clip.left_out)}" if clip.left_out else "")
        )
        for item in clip:
            if not isinstance(item, ClipFrame):
                writer.copy(item)
                continue
            kept = store.load(item.index, item.pts)
            if kept is None:
                kept = store.save(*frames.swap(item))
                computed += 1
                crash_point("mid_clip")
            record, part = kept
            frames.state = record.state
            passed.add(record)
            swapped += part is not None
            count = item.index + 1
            writer.write(item, with_part(item.image, record, part), swapped=part is not None)
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                report(f"frame {count}, {swapped} swapped")
        if swapped:
            writer.finish()
    if not swapped:
        store.remove()
        raise LakeError(f"{pair.target}: none of {count} frames could be swapped: {passed.runs[0].detail}")
    manifest = ClipManifest(
        mark=mark,
        key=key,
        lossless=lossless,
        encoder=encoder,
        sha256=_digest(store.unfinished),
        frames=count,
        swapped=swapped,
        unchanged=count - swapped,
        passed=tuple(passed.runs),
        sound=tuple(stream.codec_context.name for stream in clip.sound),
        left_out=tuple(clip.left_out),
    )
    store.unfinished.replace(out)
    write_whole(manifest_path(out), (manifest.model_dump_json(indent=1) + "\n").encode())
    store.remove()
    return ClipResult(manifest=manifest, computed=computed, kept=count - computed)


class _Passed:
    """Faces that were not swapped, put together into runs of frames."""

    def __init__(self) -> None:
        self.runs: list[PassedFrames] = []
        self._open: dict[tuple[int | None, str], int] = {}

    def add(self, record: FrameRecord) -> None:
        for face in record.faces:
            if face.reason is None:
                continue
            name = (face.face, face.reason)
            place = self._open.get(name)
            if place is not None and self.runs[place].last == record.index - 1:
                self.runs[place] = self.runs[place].model_copy(update={"last": record.index})
                continue
            self._open[name] = len(self.runs)
            self.runs.append(
                PassedFrames(
                    face=face.face,
                    reason=face.reason,
                    detail=face.detail or "",
                    first=record.index,
                    last=record.index,
                )
            )


def _key(swapper: SwapsFrames, source: Path, clip: Path, digest: str, consent: str) -> str:
    """Digest of all that decides the pictures, the libraries that decode them included."""
    decided: dict[str, Any] = {
        "name": clip.stem,
        "clip": digest,
        "source": photo_id(source),
        "settings": settings_digest(swapper, consent),
        "following": (
            tracking.NEARLY_DISTANCE,
            tracking.EXPECTED_OVERLAP,
            tracking.EXPECTED_FRAMES,
            tracking.OVERLAP_WEIGHT,
            tracking.REMEMBERED_FRAMES,
            tracking.FORGOTTEN_FRAMES,
        ),
        "versions": {name: version(name) for name in ("av", "opencv-python", "orchard-faces")},
    }
    return sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


def _finished(out: Path, key: str, *, lossless: bool) -> ClipManifest | None:
    """The manifest of a result that is there already and is what would be made."""
    path = manifest_path(out)
    if not path.is_file() or not out.is_file():
        return None
    try:
        manifest = ClipManifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
    same = (manifest.key, manifest.lossless) == (key, lossless)
    return manifest if same and _digest(out) == manifest.sha256 else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _names(clip: ClipReader) -> str:
    return ", ".join(stream.codec_context.name for stream in clip.sound)
