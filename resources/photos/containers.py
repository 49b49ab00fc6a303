"""Reading the outside of JPEG, PNG and WebP files: format, declared size, completeness, frames.

Decoders forgive. libjpeg shows a grey lower half for a cut file, Pillow skips the checksums of PNG data, and
every decoder allocates what the header declares. So the container is walked first, without decoding a pixel:
the declared size is known before anything is allocated, a cut file is told from a corrupt one, and the place
where the picture ends is exact.

The walk also says which byte ranges make up the picture. Only those are handed to a decoder: EXIF, comments,
colour profiles, text and unknown chunks cost libraries time and memory that grow faster than the file (Pillow
joins EXIF segments one by one, and reads every entry of an EXIF directory), and no pixel depends on them.

What no walk can see: JPEG data and WebP data carry no checksum, and damage inside them that still forms valid
codes decodes to a wrong picture. Random bytes in a JPEG betray themselves by 0xFF followed by a byte that may
not stand there, about once per 256 bytes: of stretches of 200-300 overwritten bytes 60 % were found (2,000
trials on one picture), so short damage can pass.

Sources: ITU-T T.81 annex B (JPEG markers), PNG third edition (W3C, 2025) §5, RFC 9649 (WebP).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from resources.photos.reasons import Reason, RowError

ImageFormat = Literal["JPEG", "PNG", "WEBP"]

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_KNOWN_BUT_UNSUPPORTED = (
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "BigTIFF"),
    (b"MM\x00+", "BigTIFF"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"qoif", "QOI"),
)
_ISO_MEDIA_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}

# Frame headers; 0xC4 (Huffman tables), 0xC8 (reserved) and 0xCC (arithmetic conditioning) lie between them.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Tables, scans, comments and application data; 0xDC is the late line count.
_JPEG_MARKERS_AFTER_SCAN = frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)))
_JPEG_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xfe]")
_JPEG_FILL_BYTES = re.compile(rb"\xff+")
# No pixel depends on comments and application data, save on JFIF's and Adobe's: they say how colour is coded.
_JPEG_ASIDE = frozenset((0xFE, *range(0xE1, 0xF0))) - {0xEE}
_EXIF_HEADER = b"Exif\0\0"

_PNG_PICTURE_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column, first row, column step and row step of the seven interlace passes (PNG §8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_STEP = 1 << 18

MAX_PARTS = 1_000_000
"""Most segments, restart markers or chunks in one file: a restart per 8x8 px of 64 megapixels just fits."""


@dataclass(frozen=True, slots=True)
class Container:
    """What the outside of a file says.

    Attributes:
        format: which of the three containers.
        width: declared width in pixels, before any EXIF rotation.
        height: declared height in pixels, before any EXIF rotation.
        animated: whether the container declares an animation.
        end: offset of the first byte after the picture.
        ranges: byte ranges, start and end, that a decoder needs; joined, they are a file of the same format.
        scans: passes over the picture, more than one in progressive JPEGs.
        exif: EXIF data from its TIFF header on; None where there is none, and for WebP (its decoder tells).
    """

    format: ImageFormat
    width: int
    height: int
    animated: bool
    end: int
    ranges: tuple[tuple[int, int], ...]
    scans: int = 1
    exif: bytes | None = None

    def picture(self, data: bytes) -> bytes:
        """The bytes of `data` that pixels depend on."""
        return b"".join(data[start:end] for start, end in self.ranges)


class _Ranges:
    """Byte ranges to keep, neighbours joined."""

    def __init__(self, end: int) -> None:
        self.found = [(0, end)]

    def keep(self, start: int, end: int) -> None:
        if self.found[-1][1] == start:
            start = self.found.pop()[0]
        self.found.append((start, end))


def sniff_format(data: bytes) -> ImageFormat:
    """Tell the format of `data` from its first bytes.

    Raises:
        RowError: `empty`, `truncated` (only a part of a signature), `unsupported_format` or `not_an_image`.
    """
    if not data:
        raise RowError(Reason.EMPTY, "the file has 0 bytes")
    if data.startswith(JPEG_MAGIC):
        return "JPEG"
    if data.startswith(PNG_MAGIC):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, name in _KNOWN_BUT_UNSUPPORTED:
        # Two letters prove little: a text that starts with "BM" is told apart by BMP's reserved zeros.
        if data.startswith(magic) and (magic != b"BM" or data[6:10] == b"\0\0\0\0"):
            raise RowError(Reason.UNSUPPORTED_FORMAT, f"{name}; convert it to JPEG, PNG or WebP")
    if data[4:8] == b"ftyp" and (name := _ISO_MEDIA_BRANDS.get(data[8:12])):
        raise RowError(Reason.UNSUPPORTED_FORMAT, f"{name}; convert it to JPEG, PNG or WebP")
    is_cut_signature = any(magic.startswith(data) for magic in (JPEG_MAGIC, PNG_MAGIC)) or (
        b"RIFF".startswith(data[:4]) and len(data) < 12
    )
    if is_cut_signature:
        raise RowError(Reason.TRUNCATED, f"only {len(data)} bytes of a signature")
    raise RowError(Reason.NOT_AN_IMAGE, f"starts with {data[:8].hex(' ')}, which is no known picture format")


def read_container(data: bytes) -> Container:
    """Walk the container of `data` without decoding pixels.

    Raises:
        RowError: see `sniff_format`; further `truncated`, `undecodable` and `too_slow`.
    """
    walk = {"JPEG": _walk_jpeg, "PNG": _walk_png, "WEBP": _walk_webp}[sniff_format(data)]
    return walk(data)


def check_png_rows(data: bytes) -> None:
    """Inflate the data of a PNG that `read_container` accepted and compare its length with the header.

    Pillow leaves rows that are not there black. Call this after the limits on the declared size: nothing is
    kept, yet the time grows with it.

    Raises:
        RowError: `undecodable`: not deflate data, or fewer bytes than the rows need.
    """
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if colour not in _PNG_CHANNELS:
        raise _undecodable(f"PNG colour type {colour}", 25)
    bits_per_pixel = depth * _PNG_CHANNELS[colour]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    wanted = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0:
            wanted += rows * (1 + -(-columns * bits_per_pixel // 8))
    inflate, found, position = zlib.decompressobj(), 0, len(PNG_MAGIC)
    while found < wanted and not inflate.eof and position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        pending = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        position += 12 + length
        try:
            while pending and found < wanted and not inflate.eof:
                found += len(inflate.decompress(pending, _INFLATE_STEP))
                pending = inflate.unconsumed_tail
        except zlib.error as error:
            raise _undecodable(f"the PNG data does not inflate ({error})", position) from error
        if kind == b"IEND":
            break
    if found < wanted:
        raise _undecodable(f"the PNG data holds {found} of {wanted} bytes", position)


def _truncated(what: str, position: int) -> RowError:
    return RowError(Reason.TRUNCATED, f"the file ends inside {what} at byte {position}")


def _undecodable(what: str, position: int) -> RowError:
    return RowError(Reason.UNDECODABLE, f"{what} at byte {position}")


def _too_many(parts: int, what: str) -> None:
    if parts > MAX_PARTS:
        raise RowError(Reason.TOO_SLOW, f"more than {MAX_PARTS} {what}")


def _walk_jpeg(data: bytes) -> Container:
    position, total = 2, len(data)
    size: tuple[int, int] | None = None
    scans = parts = restart_interval = 0
    exif: bytes | None = None
    ranges = _Ranges(position)
    while True:
        if position + 1 >= total:
            raise _truncated("the JPEG segments", total)
        if data[position] != 0xFF:
            raise _undecodable(f"a JPEG marker should stand, not 0x{data[position]:02x},", position)
        marker = data[position + 1]
        if marker == 0xFF and (fill := _JPEG_FILL_BYTES.match(data, position)):
            position = fill.end() - 1
            continue
        if marker == 0xD9:
            ranges.keep(position, position + 2)
            break
        parts += 1
        _too_many(parts, "JPEG segments and restart markers")
        misplaced = scans > 0 and marker not in _JPEG_MARKERS_AFTER_SCAN
        if misplaced or marker < 0xC0 or 0xD0 <= marker <= 0xD8:
            raise _undecodable(f"JPEG marker 0x{marker:02x} out of place", position)
        body = position + 4
        if body > total:
            raise _truncated("a JPEG segment header", total)
        length = int.from_bytes(data[position + 2 : body], "big")
        if length < 2:
            raise _undecodable("a JPEG segment of impossible length", position)
        end = position + 2 + length
        if end > total:
            # A file that has its end marker was not cut: the length is wrong, as in overwritten data.
            if data.endswith(b"\xff\xd9"):
                raise _undecodable("a JPEG segment longer than the file", position)
            raise _truncated("a JPEG segment", total)
        if marker in _JPEG_FRAME_MARKERS:
            if length < 8:
                raise _undecodable("a JPEG frame header that is too short", position)
            height, width = (int.from_bytes(data[body + at : body + at + 2], "big") for at in (1, 3))
            if size is not None:
                raise _undecodable("a second JPEG frame header", position)
            size = (width, height)
        elif marker == 0xDD and length == 4:
            restart_interval = int.from_bytes(data[body : body + 2], "big")
        elif marker == 0xE1 and exif is None and data.startswith(_EXIF_HEADER, body):
            exif = data[body + len(_EXIF_HEADER) : end]
        elif marker == 0xDA:
            scans += 1
            end, restarts = _end_of_jpeg_scan(data, end, restart_interval > 0)
            parts += restarts
        if marker not in _JPEG_ASIDE:
            ranges.keep(position, end)
        position = end
    if size is None or not scans:
        raise _undecodable("the JPEG ends without a frame or a scan", position)
    return Container("JPEG", *size, False, position + 2, tuple(ranges.found), scans, exif)


def _end_of_jpeg_scan(data: bytes, start: int, has_restarts: bool) -> tuple[int, int]:
    """Offset of the first marker after entropy-coded data, and how many restart markers lie before it.

    The order of restart markers is checked.
    """
    position, expected, restarts = start, 0xD0, 0
    while True:
        found = _JPEG_MARKER_IN_SCAN.search(data, position)
        if found is None:
            raise _truncated("the JPEG picture data", len(data))
        marker = data[found.end() - 1]
        if not 0xD0 <= marker <= 0xD7:
            return found.start(), restarts
        if not has_restarts or marker != expected:
            raise _undecodable(f"unexpected JPEG restart marker 0x{marker:02x}", found.start())
        expected, restarts = 0xD0 + (expected - 0xD0 + 1) % 8, restarts + 1
        _too_many(restarts, "JPEG restart markers")
        position = found.end()


def _walk_png(data: bytes) -> Container:
    position, total = len(PNG_MAGIC), len(data)
    size: tuple[int, int] | None = None
    animated = has_data = False
    exif: bytes | None = None
    parts, ranges = 0, _Ranges(position)
    while True:
        parts += 1
        _too_many(parts, "PNG chunks")
        body = position + 8
        if body > total:
            raise _truncated("a PNG chunk header", total)
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : body]
        if not kind.isalpha() or length > 0x7FFFFFFF:
            raise _undecodable("a broken PNG chunk header", position)
        end = body + length + 4
        if end > total:
            raise _truncated(f"PNG chunk {kind.decode('latin-1')}", total)
        # Upper-case first letter: a critical chunk. Pillow does not check the sums of picture data.
        if kind[:1].isupper() and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            raise _undecodable(f"PNG chunk {kind.decode('latin-1')} fails its checksum", position)
        if kind == b"IHDR":
            if length != 13 or size is not None or position != len(PNG_MAGIC):
                raise _undecodable("a misplaced or malformed PNG header", position)
            size = (
                int.from_bytes(data[body : body + 4], "big"),
                int.from_bytes(data[body + 4 : body + 8], "big"),
            )
        elif kind == b"acTL":
            animated = True
        elif kind == b"eXIf":
            exif = data[body : end - 4]
        elif kind == b"IDAT":
            has_data = True
        if kind in _PNG_PICTURE_CHUNKS:
            ranges.keep(position, end)
        position = end
        if kind == b"IEND":
            break
    if size is None or not has_data:
        raise _undecodable("the PNG ends without header or picture data", position)
    return Container("PNG", *size, animated, position, tuple(ranges.found), exif=exif)


def _walk_webp(data: bytes) -> Container:
    if len(data) < 30:
        raise _truncated("the WebP header", len(data))
    # RIFF pads chunks to even length, and some writers forget to count or write the last pad byte.
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) + (end & 1):
        raise _truncated("the WebP chunks", len(data))
    kind, body = data[12:16], data[20:30]
    animated = False
    if kind == b"VP8 ":
        if body[3:6] != b"\x9d\x01\x2a":
            raise _undecodable("no key frame in the WebP data", 20)
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    elif kind == b"VP8L":
        if body[0] != 0x2F:
            raise _undecodable("no lossless signature in the WebP data", 20)
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif kind == b"VP8X":
        animated = bool(body[0] & 0x02)
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    else:
        raise _undecodable(f"unknown WebP chunk {kind!r}", 12)
    return Container("WEBP", width, height, animated, min(end, len(data)), ((0, len(data)),))
