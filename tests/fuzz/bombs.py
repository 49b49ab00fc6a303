"""Files that are made to cost more than they weigh, by format and name, with the fates that are right."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import formats
import numpy as np
from mutations import OK
from PIL import Image

SIDE = 8000
"""A square of this side has 64 megapixels, the most that ingest accepts."""


def bombs(small: bool) -> Iterator[tuple[str, str, bytes, frozenset[str]]]:
    """(format, name, bytes, right fates). `small` leaves out what takes seconds to make or to decode."""
    yield from (("JPEG", *bomb) for bomb in _jpeg(small))
    yield from (("PNG", *bomb) for bomb in _png(small))
    yield from (("WEBP", *bomb) for bomb in _webp(small))


def _jpeg(small: bool) -> Iterator[tuple[str, bytes, frozenset[str]]]:
    plain, progressive, restarts = formats.seeds()["JPEG"][:3]
    frame = plain.index(b"\xff\xc0")
    yield "65520x65520", plain[: frame + 5] + b"\xff\xf0\xff\xf0" + plain[frame + 9 :], _only("too_large")
    last_pass = progressive[progressive.rindex(b"\xff\xc4") : -2]
    yield "5,000 scans", progressive[:-2] + last_pass * 5000 + b"\xff\xd9", _only("too_slow")
    pieces = formats.jpeg_segment(0xE1, b"Exif\0\0" + b"x" * 94)
    yield "20,000 exif segments", plain[:2] + pieces * 20_000 + plain[2:], _only(OK)
    yield "fill bytes", plain[:2] + b"\xff" * 5_000_000 + plain[2:], _only(OK)
    start = restarts.index(b"\xff\xd0")
    flood = restarts[:start] + b"".join(bytes((0xFF, 0xD0 + place % 8)) for place in range(8)) * 130_000
    yield "1,040,000 restart markers", flood + b"\xff\xd9", _only("too_slow")
    comments = formats.jpeg_segment(0xFE) * 1_000_001
    yield "1,000,001 comments", plain[:2] + comments + plain[2:], _only("too_slow")
    if small:
        return
    heavy = formats.encode(
        Image.new("RGB", (SIDE, SIDE), (120, 90, 30)), "JPEG", progressive=True, subsampling=0
    )
    refined = heavy[:-2] + heavy[heavy.rindex(b"\xff\xc4") : -2] * 90 + b"\xff\xd9"
    yield "64 MP in 100 scans", refined, frozenset((OK, "too_slow"))
    random = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    yield "64 MP of noise", formats.encode(Image.fromarray(random), "JPEG", quality=80), _only(OK)
    yield "64 MP CMYK", formats.encode(Image.new("CMYK", (SIDE, SIDE)), "JPEG"), _only(OK)
    yield (
        "65 MB of comments",
        plain[:2] + formats.jpeg_segment(0xFE, bytes(65_000)) * 1050,
        _only("too_large"),
    )


def _png(small: bool) -> Iterator[tuple[str, bytes, frozenset[str]]]:
    zeros = zlib.compress(zlib.compress(bytes(50_000_000), 9), 9)
    nested = [(b"IHDR", formats.png_header(60_000, 60_000)), (b"IDAT", zeros), (b"IEND", b"")]
    yield "60000x60000, nested", formats.png_of(nested), _only("too_large")
    yield (
        "2^31-1 square",
        formats.png_of([(b"IHDR", formats.png_header(2**31 - 1, 2**31 - 1)), *nested[1:]]),
        (_only("too_large")),
    )
    plain = formats.seeds()["PNG"][0]
    chunks = formats.png_chunks(plain)
    endless = zlib.compress(bytes(formats.HEIGHT * (1 + 3 * formats.WIDTH)) + bytes(200_000_000), 9)
    yield "200 MB behind the rows", formats.png_of([chunks[0], (b"IDAT", endless), chunks[-1]]), _only(OK)
    text = (b"zTXt", b"words\0\0" + zlib.compress(bytes(100_000_000), 9))
    profile = (b"iCCP", b"profile\0\0" + zlib.compress(bytes(100_000_000), 9))
    yield "100 MB of text and profile", formats.png_of([chunks[0], text, profile, *chunks[1:]]), _only(OK)
    directory = b"MM\0*\0\0\0\x08" + struct.pack(">H", 65535)
    directory += b"".join(struct.pack(">HHII", tag, 7, 3_000_000, 8) for tag in range(1, 65536))
    exif = (b"eXIf", directory.ljust(4_000_000))
    yield "exif of 65,535 x 3 MB", formats.png_of([chunks[0], exif, *chunks[1:]]), _only(OK)
    many = plain[:33] + formats.png_chunk(b"prVt", b"") * 1_000_001 + plain[33:]
    yield "1,000,001 chunks", many, _only("too_slow")
    if small:
        return
    for name, depth, colour, channels in (("RGBA16", 16, 6, 4), ("grey16", 16, 0, 1), ("RGB", 8, 2, 3)):
        rows = zlib.compress(bytes((1 + SIDE * channels * depth // 8) * SIDE), 6)
        header = formats.png_header(SIDE, SIDE, depth, colour)
        yield f"64 MP {name}", formats.png_of([(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]), _only(OK)
    photo = formats.interlaced(np.zeros((SIDE, SIDE, 3), np.uint8))
    yield "64 MP interlaced", photo, _only(OK)
    empty = plain[:-12] + formats.png_chunk(b"IDAT", b"") * 900_000 + plain[-12:]
    yield "900,000 empty data chunks", empty, _only(OK)


def _webp(small: bool) -> Iterator[tuple[str, bytes, frozenset[str]]]:
    lossy, lossless = formats.seeds()["WEBP"][:2]
    canvas = (b"VP8X", bytes(4) + b"\xff" * 6)
    yield "2^24 square", formats.webp_of([canvas, *formats.riff_chunks(lossy)]), _only("too_large")
    large = lossless[:21] + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + lossless[25:]
    yield "16384x16384 lossless", large, _only("too_large")
    square = (7999).to_bytes(3, "little")
    lie = (b"VP8X", bytes(4) + square * 2)
    yield (
        "64 MP canvas, small picture",
        formats.webp_of([lie, *formats.riff_chunks(lossy)]),
        _only("undecodable"),
    )
    extended = formats.riff_chunks(formats.seeds()["WEBP"][2])
    junk = formats.webp_of([*extended, *([(b"JUNK", b"")] * 100_000)])
    yield "100,000 chunks", junk, _only(OK)
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(0, 250, 5)]
    moving = formats.encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "50 frames", moving, _only("animated")
    if small:
        return
    picture = Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 99))
    yield "64 MP lossless, transparent", formats.encode(picture, "WEBP", lossless=True, method=0), _only(OK)
    junk = formats.webp_of([*extended, *([(b"JUNK", b"")] * 5_000_000)])
    yield "5,000,000 chunks", junk, _only(OK)


def _only(fate: str) -> frozenset[str]:
    return frozenset((fate,))
