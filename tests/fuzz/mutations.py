"""Families of mutations: a function of a sound file and a random source each, and what may come of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import formats

OK = "ok"
CUT = frozenset(("truncated", "empty"))
ANYTHING = frozenset(
    (
        *(OK, "truncated", "undecodable", "not_an_image", "unsupported_format"),
        *("animated", "too_large", "too_small", "too_slow", "empty"),
    )
)
"""What hostile bytes may become; never `decoder_died`, and nothing that only names or disks can cause."""

EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
Mutation = Callable[[Random, str, bytes], bytes]


@dataclass(frozen=True)
class Family:
    """One kind of damage.

    Attributes:
        make: (random source, format, sound file) to a mutated file.
        allowed: fates that are right: `ok` or reasons of quarantine.
        extensions: of the files, drawn at random; None for the format's own.
    """

    make: Mutation
    allowed: frozenset[str]
    extensions: tuple[str, ...] | None = None


def untouched(random: Random, image_format: str, photo: bytes) -> bytes:
    return photo


def byte_flips(random: Random, image_format: str, photo: bytes) -> bytes:
    """One to twelve bytes overwritten, half of them in the first 200, where the headers are."""
    damaged = bytearray(photo)
    for _ in range(random.randint(1, 12)):
        end = min(200, len(damaged)) if random.random() < 0.5 else len(damaged)
        damaged[random.randrange(end)] = random.randrange(256)
    return bytes(damaged)


def truncation(random: Random, image_format: str, photo: bytes) -> bytes:
    """The end is missing; of a WebP at least two bytes, since writers forget the padding byte."""
    end = len(formats.webp_of(formats.riff_chunks(photo))) - 1 if image_format == "WEBP" else len(photo)
    if image_format == "JPEG":
        end = 2 + sum(map(len, formats.jpeg_parts(photo)[:-1])) + 2  # an MPO's second picture may go
    return photo[: random.choice((random.randrange(end), random.randrange(min(end, 40))))]


def noise(random: Random, image_format: str, photo: bytes) -> bytes:
    """A stretch of random bytes, up to a quarter of the file, put over or in between."""
    start, size = random.randrange(len(photo)), random.randint(1, max(len(photo) // 4, 2))
    return photo[:start] + random.randbytes(size) + photo[start + size * random.randrange(2) :]


def length_lies(random: Random, image_format: str, photo: bytes) -> bytes:
    """The stated length of a segment or chunk, or of the whole RIFF, is another number."""
    if image_format == "JPEG":
        parts = formats.jpeg_parts(photo)
        place = random.randrange(len(parts) - 1)
        lie = _number(random) & 0xFFFF
        parts[place] = parts[place][:2] + struct.pack(">H", lie) + parts[place][4:]
        return photo[:2] + b"".join(parts)
    damaged = bytearray(photo)
    if image_format == "PNG":
        starts, at = [], 8
        for _, body in formats.png_chunks(photo):
            starts.append(at)
            at += 12 + len(body)
        struct.pack_into(">I", damaged, random.choice(starts), _number(random))
        return bytes(damaged)
    starts, at = [4], 12
    for _, body in formats.riff_chunks(photo):
        starts.append(at + 4)
        at += 8 + len(body) + (len(body) & 1)
    struct.pack_into("<I", damaged, random.choice(starts), _number(random))
    return bytes(damaged)


def size_lies(random: Random, image_format: str, photo: bytes) -> bytes:
    """Another width, height, depth or number of channels, checksums mended."""
    if image_format == "PNG":
        (kind, header), *rest = formats.png_chunks(photo)
        fields = list(struct.unpack(">IIBBBBB", header))
        place = random.randrange(7)
        fields[place] = _number(random) if place < 2 else random.choice((0, 1, 2, 3, 4, 6, 8, 16, 32, 255))
        return formats.png_of([(kind, struct.pack(">IIBBBBB", *fields)), *rest])
    damaged = bytearray(photo)
    if image_format == "JPEG":
        start = next(
            photo.index(bytes((0xFF, kind))) for kind in (0xC0, 0xC2) if bytes((0xFF, kind)) in photo
        )
        if random.random() < 0.7:
            struct.pack_into(">H", damaged, start + random.choice((5, 7)), _number(random) & 0xFFFF)
        else:  # precision, number of components, a component's id, sampling or table
            damaged[start + random.choice((4, 9, 10, 11, 12, 14))] = random.randrange(256)
        return bytes(damaged)
    for _ in range(random.randint(1, 3)):
        damaged[random.randrange(20, 30)] = random.randrange(256)
    return bytes(damaged)


def shuffled_parts(random: Random, image_format: str, photo: bytes) -> bytes:
    """Whole segments or chunks dropped, doubled, moved, or taken from nowhere, checksums right."""
    if image_format == "JPEG":
        parts = formats.jpeg_parts(photo)
        return photo[:2] + b"".join(
            _shuffle(random, parts, formats.jpeg_segment(random.randrange(256), b"???"))
        )
    if image_format == "PNG":
        kind = random.choice((b"PLTE", b"tRNS", b"IDAT", b"IHDR", b"acTL", b"fcTL", b"CRIT", b"iCCP"))
        return formats.png_of(_shuffle(random, formats.png_chunks(photo), (kind, random.randbytes(13))))
    kind = random.choice((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"JUNK"))
    return formats.webp_of(_shuffle(random, formats.riff_chunks(photo), (kind, random.randbytes(11))))


def coded_data(random: Random, image_format: str, photo: bytes) -> bytes:
    """Damage that a decoder meets: tables and picture data changed, containers and checksums intact."""
    if image_format == "JPEG":
        parts = formats.jpeg_parts(photo)
        place = random.choice([at for at, part in enumerate(parts) if part[1] in (0xC4, 0xDA, 0xDB, 0xDD)])
        body = bytearray(parts[place])
        for _ in range(random.randint(1, 8)):
            body[random.randrange(4, len(body))] = random.randrange(0xFF)
        parts[place] = bytes(body)
        return photo[:2] + b"".join(parts)
    if image_format == "PNG":
        chunks = formats.png_chunks(photo)
        raw = bytearray(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")))
        for _ in range(random.randint(1, 30)):
            raw[random.randrange(len(raw))] = random.randrange(256)
        size = len(raw) + random.choice((0, 0, 0, -1, 1, -300, 100_000))
        stream = zlib.compress(bytes(raw[:size]).ljust(size, b"\0"))
        others = [(kind, body) for kind, body in chunks if kind != b"IDAT"]
        return formats.png_of([*others[:-1], (b"IDAT", stream), others[-1]])
    chunks = [(kind, bytearray(body)) for kind, body in formats.riff_chunks(photo)]
    body = random.choice([body for kind, body in chunks if kind in (b"VP8 ", b"VP8L", b"ALPH")])
    for _ in range(random.randint(1, 8)):
        body[random.randrange(10 if len(body) > 10 else 0, len(body))] = random.randrange(256)
    return formats.webp_of([(kind, bytes(body)) for kind, body in chunks])


def metadata_garbage(random: Random, image_format: str, photo: bytes) -> bytes:
    """EXIF that loops, lies or counts to four billion, profiles and texts of noise: the picture is sound."""
    exif, junk = _exif_garbage(random), random.randbytes(random.randrange(3000))
    if image_format == "JPEG":
        segments = (
            formats.jpeg_segment(0xE1, b"Exif\0\0" + exif),
            formats.jpeg_segment(0xE2, b"ICC_PROFILE\0\x01\x05" + junk),
            formats.jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + junk),
            formats.jpeg_segment(0xE2, b"MPF\0" + exif),
            formats.jpeg_segment(0xED, b"Photoshop 3.0\x008BIM" + junk),
            formats.jpeg_segment(0xFE, junk),
            b"\xff" * random.randrange(1000),
        )
        return photo[:2] + b"".join(random.sample(segments, random.randint(1, 7))) + photo[2:]
    if image_format == "PNG":
        first, *rest = [chunk for chunk in formats.png_chunks(photo) if chunk[0] != b"eXIf"]
        extra = (
            (b"eXIf", exif),
            (b"iCCP", b"profile\0\0" + junk),
            (b"zTXt", b"words\0\0" + zlib.compress(bytes(1_000_000))),
            (b"iTXt", b"words\0" + junk),
            (b"tIME", junk),
            (b"gAMA", junk[:4]),
            (b"prVt", junk),
        )
        return formats.png_of([first, *random.sample(extra, random.randint(1, 7)), *rest])
    chunks = [chunk for chunk in formats.riff_chunks(photo) if chunk[0] not in (b"EXIF", b"XMP ", b"VP8X")]
    flags = 0x2C | (0x10 if chunks[0][0] == b"ALPH" or chunks[-1][0] == b"VP8L" else 0)
    size = (formats.WIDTH - 1).to_bytes(3, "little") + (formats.HEIGHT - 1).to_bytes(3, "little")
    pictures = [chunk for chunk in chunks if chunk[0] != b"ICCP"]
    extended = (b"VP8X", bytes((flags, 0, 0, 0)) + size)
    return formats.webp_of(
        [extended, (b"ICCP", junk), *pictures, (b"EXIF", exif), (b"XMP ", junk), (b"\xff?*%", junk)]
    )


def polyglots(random: Random, image_format: str, photo: bytes) -> bytes:
    """Another format before or behind: what stands first decides."""
    others = (
        b"%PDF-1.7\n1 0 obj <</Type/Catalog>> endobj\n%%EOF\n",
        b"PK\x03\x04" + bytes(26) + b"a.jpg" + b"PK\x05\x06" + bytes(18),
        b"GIF89a\x01\x00\x01\x00\x80\x00\x00<html><script>alert(1)</script>",
        b"<!DOCTYPE html><html><body><?php system($_GET[0]); ?></body></html>",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        b"#!/bin/sh\nrm -rf /nowhere\n",
        formats.png_of([(b"IHDR", formats.png_header(60_000, 60_000)), (b"IDAT", b""), (b"IEND", b"")]),
    )
    other = random.choice(others[:-1])
    return other + photo if random.random() < 0.4 else photo + random.choice(others) * random.randint(1, 3)


def _number(random: Random) -> int:
    return random.choice((random.choice(EXTREMES), random.getrandbits(32), random.randrange(4000)))


def _shuffle(random: Random, parts: list, stranger: object) -> list:
    parts = list(parts)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(parts))
        action = random.randrange(4)
        if action == 0 and len(parts) > 1:
            del parts[place]
        elif action == 1:
            parts.insert(random.randrange(len(parts) + 1), parts[place])
        elif action == 2:
            parts.insert(random.randrange(len(parts)), parts.pop(place))
        else:
            parts.insert(random.randrange(len(parts) + 1), stranger)
    return parts


def _exif_garbage(random: Random) -> bytes:
    order, mark = random.choice(((">", b"MM"), ("<", b"II")))
    orientation = random.choice((0, 1, 3, 6, 8, 9, 255, 65535))
    entries = [(0x0112, 3, 1, struct.pack(f"{order}HH", orientation, 0))]
    for _ in range(random.randrange(20)):
        kind, count = random.randrange(16), random.choice((0, 1, 1000, 0xFFFFFFFF))
        # 0x8769, 0x8825 and 0xA005 name further directories: this very one, or one far outside.
        tag = random.choice((0x8769, 0x8825, 0xA005, 0x0201, 0x0112, random.randrange(65536)))
        entries.append((tag, kind, count, struct.pack(f"{order}I", random.choice((8, 0, 0xFFFFFFF0)))))
    random.shuffle(entries)
    count = random.choice((len(entries), 65535, 0))
    body = struct.pack(f"{order}H", count) + b"".join(
        struct.pack(f"{order}HHI", tag, kind, number) + value for tag, kind, number, value in entries
    )
    head = mark + struct.pack(
        f"{order}HI", random.choice((42, 42, 42, 43)), random.choice((8, 8, 8, 0, 2**31))
    )
    block = head + body + struct.pack(f"{order}I", random.choice((0, 8)))  # the next directory: this one
    return block[: random.randrange(len(block))] if random.random() < 0.2 else block


ALL_EXTENSIONS = ("jpg", "JPEG", "png", "webp", "gif", "tiff", "bmp", "heic", "exe", "jpg.png", "xyz", "")
FAMILIES: Mapping[str, Family] = {
    "untouched": Family(untouched, frozenset((OK,))),
    "wrong_extension": Family(untouched, frozenset((OK,)), ALL_EXTENSIONS),
    "metadata_garbage": Family(metadata_garbage, frozenset((OK,))),
    "polyglots": Family(polyglots, frozenset((OK, "not_an_image", "unsupported_format"))),
    "truncation": Family(truncation, CUT),
    "byte_flips": Family(byte_flips, ANYTHING),
    "noise": Family(noise, ANYTHING),
    "length_lies": Family(length_lies, ANYTHING),
    "size_lies": Family(size_lies, ANYTHING),
    "shuffled_parts": Family(shuffled_parts, ANYTHING),
    "coded_data": Family(coded_data, ANYTHING),
}
