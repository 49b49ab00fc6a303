"""Photographs that every part of the suite may use: good ones, and ones broken in every way we know.

`good_photos` and `broken_photos` hold bytes by a telling name; `write_photos` puts them into a folder. All
are made from one real public-domain picture, so nothing is stored beside the tests.
"""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import io
import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.pairs import store_swap_pairs, swap_pair_rows
from resources.photos.reasons import Reason

WITH_SERVER = ("test_daemon", "test_dg", "test_refresh", "test_ui")
"""End-to-end files that share one server and one lake."""

WITH_CLUSTER = ("engine_ray",)
"""Folders whose files share one cluster."""

FIRST = (*WITH_SERVER, "test_object_store", "test_crash", "end_to_end", "swap")
"""Files and folders whose tests take longest: with several workers these start first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first."""
    items.sort(key=lambda item: [name not in (item.path.stem, item.path.parent.name) for name in FIRST])


def pytest_collection() -> None:
    """Test modules import libraries of millions of objects, none of which is garbage to be looked for."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is there now stays, so no collection need walk through it again."""
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: tests of UI, daemon and Ray wait for others some of the time."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TogetherScheduling:
    """Which tests stay together when pytest-xdist spreads them."""
    return TogetherScheduling(config, log)


class TogetherScheduling(LoadScopeScheduling):
    """Tests of a file stay together, for they share fixtures; so do those of a server, and of a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        if file.parent.name in WITH_CLUSTER:
            return file.parent.name
        return FIRST[0] if file.stem in WITH_SERVER else str(file)


@pytest.fixture(scope="session", autouse=True)
def dagster_home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands that are called without a home of their own must not make one in the repository's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster_home")))
        yield


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(picture: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_zeros(width: int, height: int, rows: int) -> bytes:
    """A grey PNG that declares `height` rows and holds `rows`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * rows), 9)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def overwrite(data: bytes, start: int, patch: bytes) -> bytes:
    return data[:start] + patch + data[start + len(patch) :]


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """Eileen Collins (NASA, public domain), (512, 512, 3) uint8 RGB."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="session")
def picture(astronaut: np.ndarray) -> Image.Image:
    """A real picture whose eight orientations all differ: the astronaut at 160 x 120."""
    return Image.fromarray(astronaut).crop((80, 0, 400, 240)).resize((160, 120), Image.Resampling.BOX)


@pytest.fixture(scope="session")
def good_photos(picture: Image.Image) -> Mapping[str, bytes]:
    """File bytes by name; every one must decode to 160 x 120 (upright) RGB."""
    import cv2

    jpeg = encode(picture, "JPEG", quality=90)
    grey16 = (np.asarray(picture.convert("L")).astype(np.uint16) << 8) | 0x5A
    rgb16 = (np.asarray(picture)[..., ::-1].astype(np.uint16) << 8) | 0x5A
    alpha = Image.fromarray(np.linspace(0, 255, 160 * 120).astype(np.uint8).reshape(120, 160))
    translucent = picture.copy()
    translucent.putalpha(alpha)
    sideways = picture.transpose(Image.Transpose.ROTATE_90)
    thumbnail = encode(picture.resize((40, 30)), "JPEG")
    return {
        "baseline.jpg": jpeg,
        "progressive.jpg": encode(picture, "JPEG", progressive=True),
        "restarts.jpg": encode(picture, "JPEG", restart_marker_blocks=3),
        "restarts_progressive.jpg": encode(picture, "JPEG", progressive=True, restart_marker_rows=1),
        "subsampled.jpg": encode(picture, "JPEG", subsampling=2, quality=30),
        "quality_100.jpg": encode(picture, "JPEG", quality=100, subsampling=0),
        "grey.jpg": encode(picture.convert("L"), "JPEG"),
        "cmyk.jpg": encode(picture.convert("CMYK"), "JPEG"),
        "rotated.jpg": encode(sideways, "JPEG", exif=exif_block(6)),
        "broken_exif.jpg": encode(picture, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01\x02"),
        "absurd_orientation.jpg": encode(picture, "JPEG", exif=exif_block(77)),
        "thumbnail_inside.jpg": encode(
            picture, "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08" + thumbnail
        ),
        "two_pictures.jpg": encode(picture, "MPO", save_all=True, append_images=[picture.resize((40, 30))]),
        "trailing_bytes.jpg": jpeg + b"ftyp and a clip that a phone hung on" * 20,
        "fill_bytes.jpg": jpeg[:-2] + b"\xff\xff\xff\xd9",
        "plain.png": encode(picture, "PNG"),
        "trailing_bytes.png": encode(picture, "PNG") + b"tail",
        "palette.png": encode(picture.quantize(32), "PNG"),
        "palette_transparent.png": encode(picture.quantize(32), "PNG", transparency=3),
        "translucent.png": encode(translucent, "PNG"),
        "grey_alpha.png": encode(translucent.convert("LA"), "PNG"),
        "one_bit.png": encode(picture.convert("1"), "PNG"),
        "grey_16_bit.png": encode(Image.fromarray(grey16), "PNG"),
        "rgb_16_bit.png": cv2.imencode(".png", rgb16)[1].tobytes(),
        "rotated.png": encode(sideways, "PNG", exif=exif_block(6)),
        "lossy.webp": encode(picture, "WEBP", quality=90),
        "lossless.webp": encode(picture, "WEBP", lossless=True),
        "translucent.webp": encode(translucent, "WEBP", lossless=True),
        "rotated.webp": encode(sideways, "WEBP", exif=exif_block(6), quality=90),
    }


@pytest.fixture(scope="session")
def broken_photos(picture: Image.Image) -> Mapping[str, tuple[bytes, Reason]]:
    """File bytes and the one right reason, by name. Names lie about the content where that is the point."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, 600, dtype=np.uint8).tobytes()
    jpeg = encode(picture, "JPEG", quality=95)
    progressive = encode(picture, "JPEG", quality=95, progressive=True)
    png = encode(picture, "PNG")
    webp = encode(picture, "WEBP", quality=90)
    flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    frames: dict[str, object] = {"save_all": True, "append_images": [flipped], "duration": 100}
    frame_header = jpeg.index(b"\xff\xc0")
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\xff\x00" * 2
    bomb_webp = b"RIFF" + struct.pack("<I", 4 + len(vp8x) + len(webp) - 12) + b"WEBP" + vp8x + webp[12:]
    first_data = png.index(b"IDAT") - 4
    return {
        "empty.jpg": (b"", Reason.EMPTY),
        "text.jpg": (b"This is no photograph, whatever its name says.\n" * 9, Reason.NOT_AN_IMAGE),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", Reason.NOT_AN_IMAGE),
        "paper.pdf": (b"%PDF-1.7\n1 0 obj <<>> endobj\n%%EOF\n", Reason.NOT_AN_IMAGE),
        "archive.jpg": (b"PK\x03\x04" + noise, Reason.NOT_AN_IMAGE),
        "noise.png": (b"\x00" + noise, Reason.NOT_AN_IMAGE),
        "zeros.jpg": (bytes(4096), Reason.NOT_AN_IMAGE),
        "sound.webp": (b"RIFF" + struct.pack("<I", 100) + b"WAVE" + noise, Reason.NOT_AN_IMAGE),
        "starts_like_bmp.jpg": (b"BMW is a maker of cars and motorcycles.", Reason.NOT_AN_IMAGE),
        "picture.gif": (encode(picture.quantize(16), "GIF"), Reason.UNSUPPORTED_FORMAT),
        "gif_in_disguise.jpg": (encode(picture.quantize(16), "GIF"), Reason.UNSUPPORTED_FORMAT),
        "picture.bmp": (encode(picture, "BMP"), Reason.UNSUPPORTED_FORMAT),
        "picture.tiff": (encode(picture, "TIFF"), Reason.UNSUPPORTED_FORMAT),
        "picture.avif": (encode(picture, "AVIF"), Reason.UNSUPPORTED_FORMAT),
        "picture.jp2": (encode(picture, "JPEG2000"), Reason.UNSUPPORTED_FORMAT),
        "cut_in_half.jpg": (jpeg[: len(jpeg) // 2], Reason.TRUNCATED),
        "cut_in_half_progressive.jpg": (progressive[: len(progressive) // 2], Reason.TRUNCATED),
        "cut_in_header.jpg": (jpeg[:100], Reason.TRUNCATED),
        "last_two_bytes_missing.jpg": (jpeg[:-2], Reason.TRUNCATED),
        "cut_in_signature.png": (png[:5], Reason.TRUNCATED),
        "cut_in_half.png": (png[: len(png) // 2], Reason.TRUNCATED),
        "end_chunk_missing.png": (png[:-12], Reason.TRUNCATED),
        "cut_in_half.webp": (webp[: len(webp) // 2], Reason.TRUNCATED),
        "cut_in_header.webp": (webp[:20], Reason.TRUNCATED),
        "noise_in_body.jpg": (overwrite(jpeg, len(jpeg) // 2, noise), Reason.UNDECODABLE),
        "noise_in_tables.jpg": (overwrite(jpeg, 20, noise[:300]), Reason.UNDECODABLE),
        "no_picture.jpg": (b"\xff\xd8\xff\xd9", Reason.UNDECODABLE),
        "noise_in_body.png": (overwrite(png, len(png) // 2, noise), Reason.UNDECODABLE),
        "one_bit_flipped.png": (overwrite(png, 5000, bytes([png[5000] ^ 1])), Reason.UNDECODABLE),
        "data_missing.png": (png[:first_data] + png[-12:], Reason.UNDECODABLE),
        "rows_missing.png": (png_of_zeros(160, 120, rows=60), Reason.UNDECODABLE),
        "no_deflate.png": (
            png[:first_data] + png_chunk(b"IDAT", noise) + png[-12:],
            Reason.UNDECODABLE,
        ),
        "no_key_frame.webp": (overwrite(webp, 23, b"\0\0\0"), Reason.UNDECODABLE),
        "moving.webp": (encode(picture, "WEBP", **frames), Reason.ANIMATED),
        "moving.png": (encode(picture, "PNG", **frames), Reason.ANIMATED),
        "bomb.png": (png_of_zeros(30_000, 30_000, rows=10), Reason.TOO_LARGE),
        "bomb.jpg": (overwrite(jpeg, frame_header + 5, b"\xff\xf0\xff\xf0"), Reason.TOO_LARGE),
        "bomb.webp": (bomb_webp, Reason.TOO_LARGE),
        "icon.png": (encode(picture.resize((16, 16)), "PNG"), Reason.TOO_SMALL),
        "strip.jpg": (encode(picture.resize((160, 8)), "JPEG"), Reason.TOO_SMALL),
    }


@pytest.fixture(scope="session")
def write_photos() -> Callable[[Path, Mapping[str, bytes]], list[Path]]:
    """A function that writes named bytes into a folder (made when absent) and returns the paths."""

    def write(folder: Path, photos: Mapping[str, bytes]) -> list[Path]:
        paths: list[Path] = []
        for name, data in photos.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            paths.append(path)
        return paths

    return write


@dataclass(frozen=True)
class SmallLake:
    """A finished lake of the profile `smoke`, its photographs, and what the run computed."""

    lake: Lake
    folder: Path
    computed: dict[str, int]

    def copy_to(self, folder: Path) -> SmallLake:
        """A lake of one's own: photographs and lake copied, sources pointing at the copied photographs."""
        shutil.copytree(self.folder, folder / "world")
        shutil.copytree(self.lake.uri, folder / "lake")
        lake = Lake.open(folder / "lake")
        shutil.move(self.folder, self.folder.with_name("aside"))
        try:
            ingest(lake, folder / "world" / "photos", shard_size=8)
        finally:
            shutil.move(self.folder.with_name("aside"), self.folder)
        return SmallLake(lake, folder / "world", dict(self.computed))


@pytest.fixture(scope="session")
def smoke_lake(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> SmallLake:
    """Five rendered people with four photographs each, two of them held out; every stage has run once.

    Read only: take `copy_to(tmp_path)` to change something. With several workers the first that asks makes
    it, and each has a copy.
    """
    own = tmp_path_factory.mktemp("smoke")
    if worker_id == "master":
        return make_smoke_lake(own)
    shared = tmp_path_factory.getbasetemp().parent / "smoke_of_all"
    done = shared / "computed.json"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(shared, ignore_errors=True)
            done.write_text(json.dumps(make_smoke_lake(shared).computed), encoding="utf-8")
        computed = json.loads(done.read_text(encoding="utf-8"))
        return SmallLake(Lake.open(shared / "lake"), shared / "world", computed).copy_to(own)


def make_smoke_lake(root: Path) -> SmallLake:
    from models.worlds.portraits import write_portraits
    from pipeline.execution import run_stages
    from pipeline.profiles import profile
    from resources.photos.pairs import read_swap_pairs

    folder = root / "world"
    write_portraits(folder, identities=5, photos=4, size=160, swap_pairs=4, held_out=2)
    lake = Lake.open(root / "lake", create=True)
    ingest(lake, folder / "photos", shard_size=8, consent=Consent.SYNTHETIC)
    store_swap_pairs(lake, swap_pair_rows(read_swap_pairs(folder / "swap_pairs.csv")))
    graph = profile("smoke").graph()
    graph.prepare(lake)
    with pytest.MonkeyPatch.context() as patch:
        # weights of the tests that asked first would be measured with, and be gone for all later ones
        patch.delenv("ORCHARD_WEIGHTS", raising=False)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "no_hub"))
        report = run_stages(lake, graph, graph.names, device="cpu")
    return SmallLake(lake, folder, report.computed_rows)


@pytest.fixture(scope="session")
def flux_files() -> ModuleType:
    """The module that writes small FLUX folders and PuLID files; only tests that use it load torch."""
    return module_of_the_tests("flux_files")


@pytest.fixture(scope="session")
def make_database() -> Iterator[Callable[[str], str]]:
    """A function that makes a database on a real PostgreSQL server and gives its URL."""
    with module_of_the_tests("postgres_server").running_server() as server:
        yield server.make_database


def module_of_the_tests(name: str) -> ModuleType:
    """A module that lies beside this file: tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look up the names of their annotations there
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
