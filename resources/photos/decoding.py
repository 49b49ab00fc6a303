"""From file bytes to upright RGB pixels, under limits.

Every photograph of unknown origin passes here and nowhere else. The order is: size in bytes, format by
magic bytes, walk of the container (`containers.py`), limits on the *declared* size, full decode by Pillow of
the bytes that pixels depend on, and of no others. So a decompression bomb is refused before anything is
allocated, and a file that passes has been decoded to its last row.

Time and memory are limited twice. Here, by what is counted before decoding: bytes, pixels, passes, parts. And
at ingest by a process of its own (`isolation.py`), which enforces `max_seconds` and `max_memory` and may die.

Decisions, each deterministic:

* EXIF orientation is applied exactly once, here. Missing, malformed or out-of-range values count as 1
  (`orientation.py`). XMP orientation is not consulted. Pixels that leave this module are upright.
* Colour becomes 8-bit RGB. Grey is repeated; palettes are looked up; alpha is composited over white; CMYK
  and YCCK go through Pillow's plain conversion; 16-bit samples keep their high byte. ICC profiles are not
  applied: the stored values are taken as sRGB, as the data sets of this field do.
* Bytes after the end of the picture are accepted, counted in `PhotoFacts.trailing_bytes`, part of `sha256`,
  and never looked at. Phones append depth maps and clips there, so refusing them would refuse good
  photographs. Nothing Orchard writes copies them: outputs are encoded anew from pixels.
* Extra pictures that a JPEG lists in its multi-picture index (MPO) are trailing bytes in this sense.

Pillow's own guard (`Image.MAX_IMAGE_PIXELS`) stays on. Its warning range is an error here: `DecodeLimits`
cannot be set above it, and the declared size is compared with it before Pillow sees the file. Pillow's switch
for padding truncated files (`ImageFile.LOAD_TRUNCATED_IMAGES`) does not matter: containers are checked first.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from resources.photos.containers import (
    Container,
    ImageFormat,
    check_png_rows,
    read_container,
    sniff_format,
)
from resources.photos.orientation import read_orientation
from resources.photos.reasons import Reason, RowError

PILLOW_WARNING_PIXELS = 89_478_485
"""Above this Pillow starts to warn (1 GiB / 4 / 3, `Image.MAX_IMAGE_PIXELS` as shipped)."""

_STRIP_ROWS = 512
"""Rows composited over white at a time, so that transparency costs no second picture."""

# What Pillow's decoders raise on hostile bytes. Anything else, MemoryError included, is our fault and stops.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Warning,
    Image.DecompressionBombError,
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeLimits(BaseModel):
    """What a photograph may be. Anything beyond is quarantined, never decoded in part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(
        default=64 * 2**20, gt=0, description="Largest file in bytes; larger is `too_large`."
    )
    max_pixels: int = Field(
        default=64_000_000,
        gt=0,
        le=PILLOW_WARNING_PIXELS,
        description="Largest declared width x height; larger is `too_large`. Capped by Pillow's own guard.",
    )
    max_scans: int = Field(
        default=100,
        gt=0,
        description="Most passes of a progressive JPEG, each over all pixels; encoders write about 10. "
        "More is `too_slow`.",
    )
    max_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Most CPU seconds for one file where it is decoded in a process of its own (ingest); "
        "more is `too_slow`.",
    )
    max_memory: int = Field(
        default=4 * 2**30,
        gt=0,
        description="Address space of that process in bytes; a file that needs more is `too_large`, or "
        "`undecodable` where libjpeg or libwebp report a lack of memory as damage. A photograph within the "
        "other limits stays below 2 GiB.",
    )
    min_side: int = Field(default=32, gt=0, description="Shortest side in pixels; shorter is `too_small`.")
    formats: frozenset[ImageFormat] = Field(
        default=frozenset(("JPEG", "PNG", "WEBP")),
        description="Allowed formats; others are `unsupported_format`.",
    )


class PhotoFacts(BaseModel):
    """What `inspect_photo` found out about a photograph that decodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: ImageFormat = Field(description="Container format, by magic bytes and never by file name.")
    width: int = Field(description="Width in pixels of the upright picture.")
    height: int = Field(description="Height in pixels of the upright picture.")
    orientation: int = Field(
        ge=1, le=8, description="EXIF orientation as stored; 1 when absent or malformed."
    )
    sha256: str = Field(description="Hex SHA-256 of the file's bytes, trailing bytes included.")
    trailing_bytes: int = Field(
        ge=0, description="Bytes after the end of the picture, ignored by the decoder."
    )


DEFAULT_LIMITS = DecodeLimits()


def read_photo(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Read a file's bytes without hanging on pipes and without reading beyond `limits.max_bytes`.

    Raises:
        RowError: `unreadable` (permission, dead link, not a regular file, I/O error) or `too_large`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RowError(Reason.UNREADABLE, "not a regular file")
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise RowError(Reason.UNREADABLE, f"{name}: {error.strerror}") from error
    if len(data) > limits.max_bytes:
        raise RowError(Reason.TOO_LARGE, f"more than {limits.max_bytes} bytes")
    return data


def inspect_photo(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> PhotoFacts:
    """Decode `data` in full and say what it is.

    Args:
        data: the bytes of the file.
        limits: what is accepted.

    Raises:
        RowError: `empty`, `not_an_image`, `unsupported_format`, `truncated`, `undecodable`, `animated`,
            `too_large`, `too_small` or `too_slow`.
    """
    return decode_photo(data, limits)[0]


def decode_upright(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Decode `data` to upright RGB, shape (height, width, 3), uint8. Raises as `inspect_photo` does."""
    return decode_photo(data, limits)[1]


def decode_photo(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> tuple[PhotoFacts, np.ndarray]:
    """Facts and upright RGB pixels, (height, width, 3) uint8, of one decode.

    Raises as `inspect_photo` does.
    """
    container = _checked_container(data, limits)
    try:
        # Naming the format keeps Pillow from trying its other sixty decoders on these bytes.
        with Image.open(io.BytesIO(container.picture(data)), formats=(container.format,)) as image:
            # Before load(): nothing has been allocated for pixels yet.
            if image.size != (container.width, container.height):
                declared = f"{container.width}x{container.height}"
                raise RowError(Reason.UNDECODABLE, f"two declared sizes, {declared} and {image.size}")
            if getattr(image, "n_frames", 1) > 1:
                raise RowError(Reason.ANIMATED, f"{image.format} with several frames")
            image.load()
            exif = container.exif if container.format != "WEBP" else image.info.get("exif")
            orientation = read_orientation(exif)
            upright = _to_rgb(image)
    except UnidentifiedImageError as error:
        raise RowError(Reason.UNDECODABLE, f"Pillow rejects this {container.format} header") from error
    except _DECODER_ERRORS as error:
        raise RowError(Reason.UNDECODABLE, f"{type(error).__name__}: {error}") from error
    if orientation in _TRANSPOSE:
        upright = upright.transpose(_TRANSPOSE[orientation])
    facts = PhotoFacts(
        format=container.format,
        width=upright.width,
        height=upright.height,
        orientation=orientation,
        sha256=hashlib.sha256(data).hexdigest(),
        trailing_bytes=len(data) - container.end,
    )
    return facts, np.array(upright)


def _checked_container(data: bytes, limits: DecodeLimits) -> Container:
    if len(data) > limits.max_bytes:
        raise RowError(Reason.TOO_LARGE, f"{len(data)} bytes, at most {limits.max_bytes} are accepted")
    found = sniff_format(data)
    if found not in limits.formats:
        raise RowError(Reason.UNSUPPORTED_FORMAT, f"{found} is not among {sorted(limits.formats)}")
    container = read_container(data)
    width, height = container.width, container.height
    allowed = min(limits.max_pixels, Image.MAX_IMAGE_PIXELS or PILLOW_WARNING_PIXELS)
    if width * height > allowed:
        raise RowError(Reason.TOO_LARGE, f"{width}x{height} pixels, at most {allowed} are accepted")
    if container.animated:
        raise RowError(Reason.ANIMATED, f"an animated {container.format}")
    if container.scans > limits.max_scans:
        raise RowError(Reason.TOO_SLOW, f"{container.scans} scans, at most {limits.max_scans} are accepted")
    if min(width, height) == 0:
        raise RowError(Reason.UNDECODABLE, f"declared size {width}x{height}")
    if min(width, height) < limits.min_side:
        raise RowError(Reason.TOO_SMALL, f"{width}x{height} pixels, both sides need {limits.min_side}")
    if container.format == "PNG":
        check_png_rows(data)
    return container


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its byte orders, or "I" from some writers
        samples = np.asarray(image) >> 8
        return Image.fromarray(np.clip(samples, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    upright = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        strip = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        upright.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return upright
