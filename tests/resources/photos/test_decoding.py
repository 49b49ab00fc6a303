"""Decoding: every broken file gets its reason, every good one decodes, orientation is applied once."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import time
import tracemalloc
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError

from resources.photos.containers import MAX_PARTS, read_container
from resources.photos.decoding import (
    PILLOW_WARNING_PIXELS,
    DecodeLimits,
    decode_photo,
    decode_upright,
    inspect_photo,
    read_photo,
)
from resources.photos.orientation import read_orientation
from resources.photos.reasons import Reason, RowError

Broken = Mapping[str, tuple[bytes, Reason]]
Good = Mapping[str, bytes]


def reason_of(data: bytes, limits: DecodeLimits | None = None) -> Reason:
    with pytest.raises(RowError) as caught:
        inspect_photo(data, limits or DecodeLimits())
    assert caught.value.detail
    return caught.value.reason


def test_every_broken_photo_gets_its_reason(broken_photos: Broken) -> None:
    assert len(broken_photos) >= 20
    found = {name: reason_of(data) for name, (data, _) in broken_photos.items()}
    assert found == {name: reason for name, (_, reason) in broken_photos.items()}
    assert set(found.values()) == {
        Reason.EMPTY,
        Reason.NOT_AN_IMAGE,
        Reason.UNSUPPORTED_FORMAT,
        Reason.TRUNCATED,
        Reason.UNDECODABLE,
        Reason.ANIMATED,
        Reason.TOO_LARGE,
        Reason.TOO_SMALL,
    }


def test_every_good_photo_decodes_to_the_same_scene(good_photos: Good, picture: Image.Image) -> None:
    assert len(good_photos) >= 20
    for name, data in good_photos.items():
        facts, pixels = decode_photo(data)
        assert (facts.width, facts.height) == (160, 120), name
        assert pixels.shape == (120, 160, 3), name
        assert pixels.dtype == np.uint8, name
        assert facts.sha256 == hashlib.sha256(data).hexdigest(), name
        assert facts.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rsplit(".")[-1]], name
        assert facts.orientation == (6 if name.startswith("rotated") else 1), name
        np.testing.assert_array_equal(pixels, decode_upright(data))
        grey = pixels.mean(axis=-1)[:, 100:]  # right part, where the translucent ones are not all white
        wanted = np.asarray(picture).mean(axis=-1)[:, 100:]
        assert np.corrcoef(grey.ravel(), wanted.ravel())[0, 1] > 0.3, name


def test_what_is_kept_from_the_decoder_changes_no_pixel(good_photos: Good, picture: Image.Image) -> None:
    """Pillow gives the same picture from the whole file as from the parts that it is handed."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpeg = {"exif": exif(orientation=1), "comment": b"words", "icc_profile": profile, "xmp": b"<x/>"}
    notes = PngInfo()
    notes.add_text("Title", "words", zip=True)
    full = {
        "full.jpg": encoded(picture, "JPEG", **jpeg, progressive=True),
        "full_cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG", **jpeg),
        "full.png": encoded(picture, "PNG", pnginfo=notes, icc_profile=profile, exif=exif(1)),
        "full_palette.png": encoded(picture.quantize(9), "PNG", pnginfo=notes, transparency=b"\x00\x80"),
    }
    for name, data in {**good_photos, **full}.items():
        kept = read_container(data).picture(data)
        with Image.open(io.BytesIO(data)) as whole, Image.open(io.BytesIO(kept)) as part:
            np.testing.assert_array_equal(np.asarray(whole.convert("RGBA")), np.asarray(part.convert("RGBA")))
        if name in full:
            assert len(kept) < len(data) - len(profile) * ("cmyk" in name), name
            assert b"words" not in kept


def encoded(picture: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_metadata_that_grows_costs_no_more_than_reading_it(good_photos: Good) -> None:
    """Small forms of files on which Pillow alone would work for minutes, or fill the memory."""
    jpeg, png = good_photos["baseline.jpg"], good_photos["plain.png"]
    directory = b"MM\0*\0\0\0\x08" + struct.pack(">H", 65535)
    directory += b"".join(struct.pack(">HHII", tag, 7, 4_000_000, 8) for tag in range(1, 65536))
    bombs = {
        "exif in 20,000 segments": jpeg[:2] + segment(0xE1, b"Exif\0\0" + b"x" * 94) * 20_000 + jpeg[2:],
        "4 MB of fill bytes": jpeg[:2] + b"\xff" * 4_000_000 + jpeg[2:],
        "20,000 comments": jpeg[:2] + segment(0xFE, b"") * 20_000 + jpeg[2:],
        "20,000 texts": png[:33] + png_chunk(b"tEXt", b"a\0b") * 20_000 + png[33:],
        "65,535 entries of 4 MB": png[:33] + png_chunk(b"eXIf", directory.ljust(5_000_000)) + png[33:],
    }
    for name, data in bombs.items():
        tracemalloc.start()
        started = time.process_time()
        facts = inspect_photo(data)
        seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (facts.width, facts.height, facts.trailing_bytes) == (160, 120, 0)
        assert seconds < 5, (name, seconds)
        assert peak < len(data) + 2_000_000, (name, peak)


def test_parts_and_passes_are_counted_before_decoding(good_photos: Good) -> None:
    jpeg, png = good_photos["progressive.jpg"], good_photos["plain.png"]
    last_pass = jpeg[jpeg.rindex(b"\xff\xc4") : -2]
    scans = jpeg.count(b"\xff\xda")
    assert scans == 10
    assert inspect_photo(jpeg[:-2] + last_pass * (100 - scans) + b"\xff\xd9").format == "JPEG"
    slow = {
        "scans": jpeg[:-2] + last_pass * (101 - scans) + b"\xff\xd9",
        "segments": jpeg[:2] + b"\xff\xfe\0\2" * (MAX_PARTS + 1) + jpeg[2:],
        "chunks": png[:33] + png_chunk(b"prVt", b"") * MAX_PARTS + png[33:],
    }
    for name, data in slow.items():
        assert reason_of(data) is Reason.TOO_SLOW, name
    assert reason_of(jpeg, DecodeLimits(max_scans=9)) is Reason.TOO_SLOW


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 6),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", 8),
        (b"MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01\0\x03\0\0", 3),  # counts 65,535, holds one
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x05", 5),  # a long
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x00\0\0", 1),  # 0
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0", 1),  # 9
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\xff\xff\0\0", 1),  # 65,535
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x02\0\x06\0\0", 1),  # two values
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01\0\x06\0\0", 1),  # a text
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", 1),  # cut inside the entry
        (b"MM\0*\xff\xff\xff\xff\0\x01", 1),  # a directory outside
        (b"MM\0+\0\0\0\x08\0\0", 1),  # BigTIFF
        (b"MM", 1),
        (b"", 1),
        (None, 1),
    ],
)
def test_orientation_is_read_from_its_entry_alone(block: bytes | None, orientation: int) -> None:
    assert read_orientation(block) == orientation


def test_lossless_pixels_are_exact(good_photos: Good, picture: Image.Image) -> None:
    original = np.asarray(picture)
    for name in ("plain.png", "trailing_bytes.png", "rotated.png", "lossless.webp", "rgb_16_bit.png"):
        np.testing.assert_array_equal(decode_upright(good_photos[name]), original, err_msg=name)
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(decode_upright(good_photos["grey_16_bit.png"]), np.dstack([grey] * 3))


def test_alpha_is_composited_over_white(good_photos: Good, picture: Image.Image) -> None:
    original = np.asarray(picture).astype(float)
    alpha = np.linspace(0, 255, 160 * 120).astype(np.uint8).reshape(120, 160, 1) / 255
    wanted = original * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(decode_upright(good_photos["translucent.png"]), wanted, atol=1.01)


def test_all_orientations_give_the_same_upright_pixels(picture: Image.Image) -> None:
    upright = np.asarray(picture)
    # What a camera stores for each orientation: written out per EXIF 2.32 table 6, with numpy alone.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, image_format, exif=exif, **options)
            facts, decoded = decode_photo(buffer.getvalue())
            assert (facts.orientation, facts.width, facts.height) == (orientation, 160, 120)
            np.testing.assert_array_equal(decoded, upright, err_msg=f"{image_format} {orientation}")


def test_xmp_orientation_is_not_applied(picture: Image.Image) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", xmp=xmp)
    assert inspect_photo(buffer.getvalue()).orientation == 1


def test_trailing_bytes_are_counted_and_change_only_the_hash(good_photos: Good) -> None:
    plain, tailed = good_photos["baseline.jpg"], good_photos["trailing_bytes.jpg"]
    first, second = inspect_photo(plain), inspect_photo(tailed)
    assert (first.trailing_bytes, second.trailing_bytes) == (0, len(tailed) - len(plain))
    assert first.sha256 != second.sha256
    np.testing.assert_array_equal(decode_upright(plain), decode_upright(tailed))
    assert inspect_photo(good_photos["two_pictures.jpg"]).trailing_bytes > 500


def test_bombs_are_refused_before_memory_is_allocated(broken_photos: Broken) -> None:
    for name in ("bomb.png", "bomb.jpg", "bomb.webp"):
        data = broken_photos[name][0]
        container = read_container(data)
        assert container.width * container.height > 500_000_000 or name == "bomb.webp"
        tracemalloc.start()
        assert reason_of(data) is Reason.TOO_LARGE
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000, name


def interlaced_png(width: int, height: int, missing: int) -> bytes:
    """A grey interlaced PNG; written after PNG §8.2 by counting pixels, with `missing` bytes left away."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    raw = b""
    for x, y, step_x, step_y in passes:
        for _ in range(y, height, step_y):
            columns = len(range(x, width, step_x))
            raw += b"\0" + b"\x80" * columns if columns else b""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)),
        (b"IDAT", zlib.compress(raw[: len(raw) - missing])),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(("width", "height"), [(32, 32), (33, 47), (1, 5), (3, 2), (5, 1)])
def test_interlaced_pngs_are_counted_to_the_last_byte(width: int, height: int) -> None:
    limits = DecodeLimits(min_side=1)
    assert (decode_upright(interlaced_png(width, height, missing=0), limits) == 0x80).all()
    assert reason_of(interlaced_png(width, height, missing=1), limits) is Reason.UNDECODABLE


def test_limits_are_obeyed_and_stay_below_pillows_guard(good_photos: Good) -> None:
    data = good_photos["plain.png"]
    assert reason_of(data, DecodeLimits(max_bytes=len(data) - 1)) is Reason.TOO_LARGE
    assert reason_of(data, DecodeLimits(max_pixels=160 * 120 - 1)) is Reason.TOO_LARGE
    assert reason_of(data, DecodeLimits(min_side=121)) is Reason.TOO_SMALL
    assert reason_of(data, DecodeLimits(formats=frozenset({"JPEG"}))) is Reason.UNSUPPORTED_FORMAT
    exact = DecodeLimits(max_bytes=len(data), max_pixels=160 * 120, min_side=120)
    assert inspect_photo(data, exact).height == 120
    assert Image.MAX_IMAGE_PIXELS == PILLOW_WARNING_PIXELS
    with pytest.raises(ValidationError):
        DecodeLimits(max_pixels=PILLOW_WARNING_PIXELS + 1)


def test_read_photo_reports_what_the_file_system_refuses(tmp_path: Path) -> None:
    pipe, dead, folder, file = (tmp_path / name for name in ("pipe", "dead", "folder", "file"))
    os.mkfifo(pipe)
    dead.symlink_to(tmp_path / "nowhere")
    folder.mkdir()
    file.write_bytes(b"x" * 100)
    for path in (pipe, dead, folder, tmp_path / "absent"):
        with pytest.raises(RowError) as caught:
            read_photo(path)
        assert caught.value.reason is Reason.UNREADABLE
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(RowError) as caught:
        read_photo(file, DecodeLimits(max_bytes=99))
    assert caught.value.reason is Reason.TOO_LARGE
    assert read_photo(file, DecodeLimits(max_bytes=100)) == b"x" * 100


def test_reasons_explain_themselves_and_survive_pickling() -> None:
    assert {str(reason) for reason in Reason} == {reason.name.lower() for reason in Reason}
    assert all(reason.meaning.endswith(".") for reason in Reason)
    assert Reason("truncated") is Reason.TRUNCATED
    error = pickle.loads(pickle.dumps(RowError(Reason.NO_FACE, "nobody there")))
    assert (error.reason, error.detail, str(error)) == (
        Reason.NO_FACE,
        "nobody there",
        "no_face: nobody there",
    )
