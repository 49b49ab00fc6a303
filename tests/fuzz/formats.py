"""Sound photographs of every kind that ingest accepts, and the grammar of their files, written down anew.

The mutations need to take files apart and put them together again; using the parser under test for that would
only make files that it expects.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image
from skimage import data

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 96, 72


def encode(picture: Image.Image, image_format: str, **options: object) -> bytes:
    """File bytes of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def seeds() -> Mapping[str, list[bytes]]:
    """Sound files by format: every colour type, depth and coding that cameras and editors write."""
    picture = Image.fromarray(data.astronaut()).crop((80, 0, 400, 240)).resize((WIDTH, HEIGHT))
    alpha = picture.copy()
    alpha.putalpha(
        Image.fromarray(np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8))
    )
    grey16 = Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16) << 8) | 0x5A)
    rgb16 = cv2.imencode(".png", np.asarray(picture)[..., ::-1].astype(np.uint16) << 8)[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "JPEG": [
            encode(picture, "JPEG", quality=90),
            encode(picture, "JPEG", progressive=True),
            encode(picture, "JPEG", restart_marker_blocks=3),
            encode(picture, "JPEG", progressive=True, restart_marker_rows=1, subsampling=0),
            encode(picture, "JPEG", subsampling=2, quality=30, exif=exif, comment=b"words", xmp=b"<x/>"),
            encode(picture.convert("L"), "JPEG"),
            encode(picture.convert("CMYK"), "JPEG"),
            encode(picture, "MPO", save_all=True, append_images=[picture.resize((40, 30))]),
        ],
        "PNG": [
            encode(picture, "PNG"),
            encode(picture.quantize(32), "PNG"),
            encode(picture.quantize(32), "PNG", transparency=bytes(range(32))),
            encode(alpha, "PNG", exif=exif),
            encode(alpha.convert("LA"), "PNG"),
            encode(picture.convert("1"), "PNG"),
            encode(grey16, "PNG"),
            rgb16,
            interlaced(np.asarray(picture)),
        ],
        "WEBP": [
            encode(picture, "WEBP", quality=90),
            encode(picture, "WEBP", lossless=True),
            encode(alpha, "WEBP", quality=60, exif=exif),
            encode(alpha, "WEBP", lossless=True, xmp=b"<x/>"),
            encode(picture, "WEBP", quality=5, icc_profile=b"no profile"),
        ],
    }


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of (kind, body) pairs."""
    return PNG_SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_chunks(photo: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of every chunk of a sound PNG."""
    found, at = [], len(PNG_SIGNATURE)
    while at < len(photo):
        (length,) = struct.unpack_from(">I", photo, at)
        found.append((photo[at + 4 : at + 8], photo[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """The body of an IHDR chunk."""
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def interlaced(picture_HW3: np.ndarray) -> bytes:
    """An Adam7 PNG of RGB pixels; Pillow writes none."""
    rows = b""
    for x, y, step_x, step_y in ADAM7:
        part = picture_HW3[y::step_y, x::step_x]
        rows += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    height, width = picture_HW3.shape[:2]
    header = png_header(width, height, interlace=1)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def jpeg_segment(marker: int, body: bytes = b"") -> bytes:
    """One segment with its length."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_parts(photo: bytes) -> list[bytes]:
    """Segments of a sound JPEG after its first two bytes, scan data joined to their headers; the end last."""
    parts, at = [], 2
    while photo[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(photo[at + 2 : at + 4], "big")
        if photo[at + 1] == 0xDA:
            while photo[end] != 0xFF or photo[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        parts.append(photo[at:end])
        at = end
    return [*parts, photo[at:]]


def riff_chunks(photo: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of every chunk of a sound WebP."""
    found, at = [], 12
    while at + 8 <= len(photo):
        (length,) = struct.unpack_from("<I", photo, at + 4)
        found.append((photo[at : at + 4], photo[at + 8 : at + 8 + length]))
        at += 8 + length + (length & 1)
    return found


def webp_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A WebP of (kind, body) pairs."""
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
