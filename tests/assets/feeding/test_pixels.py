"""Pixels out of a small real lake: what is fed, in which order, and that nobody's number changes it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.condition import OWN_CONDITION
from assets.feeding import PixelRows, released_pixels
from assets.release import released_rows
from assets.row_reader import RowReader
from assets.training_rows import need_artifact, row_ids_of
from models.faces.condition import PIXEL_CONDITION
from models.faces.frame import face_frame, frame_condition
from models.faces.parsing import decode_codes, unpack_mask
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright

CRASH = Path(__file__).parents[1] / "crash"
ROWS = 15
SIZE = 32
BEFORE = ("aesthetics", "identity_embedding", "masks", "latents", "release")


def test_a_row_is_its_photograph_and_its_condition_image(lake: Lake, rows: PixelRows) -> None:
    """Against what the stored bytes and masks give one by one, in any order and twice where asked twice."""
    image_ids, _ = released_rows(lake, need_artifact(lake, "release"), "train")
    places = np.array([14, 3, 0, 3, 9])
    batch = rows.read(places)
    assert batch.conditions_BSS3 is not None
    assert batch.columns["image_id"] == [image_ids[place] for place in places]
    assert batch.columns["width"].tolist() == [64] * len(places)
    names = ["image", "parsing", "visible_face", "landmarks_68", "iris_10", "identity_embedding"]
    stored = lake.faces.snapshot().find(image_ids, names)
    for number, place in enumerate(places):
        row = stored[image_ids[place]]
        frame = face_frame(
            decode_upright(row["image"]),
            decode_codes(row["parsing"], (64, 64)),
            unpack_mask(row["visible_face"], (64, 64)),
            np.array(row["landmarks_68"], np.float32).reshape(68, 2),
            np.array(row["iris_10"], np.float32).reshape(10, 2),
            SIZE,
        )
        assert np.array_equal(batch.images_BSS3[number].numpy(), frame.image)
        drawn = frame_condition(frame, PIXEL_CONDITION)
        assert np.array_equal(batch.conditions_BSS3[number].numpy(), drawn)
        assert batch.columns["identity_embedding"][number].tolist() == row["identity_embedding"]
    assert np.array_equal(rows[places], batch.images_BSS3.numpy())


def test_what_is_fed_is_what_the_stage_condition_made(smoke_lake) -> None:
    side = 32  # that of the profile
    rows = released_pixels(smoke_lake.lake, size=side, condition=OWN_CONDITION, columns=("condition_sha256",))
    batch = rows.read(np.arange(len(rows)))
    assert batch.conditions_BSS3 is not None
    found = [hashlib.sha256(item.numpy().tobytes()).hexdigest() for item in batch.conditions_BSS3]
    assert found == batch.columns["condition_sha256"]


def test_only_the_columns_that_are_asked_for_are_read(lake: Lake, rows: PixelRows) -> None:
    drawn = {"condition_recipe", "landmarks_68", "iris_10", "parsing", "visible_face"}
    photograph = {"image", "image_sha256", "orientation"}
    assert set(PixelRows(rows.reader, SIZE).lake_columns) == photograph
    assert set(rows.lake_columns) == photograph | drawn | {"identity_embedding", "image_id", "width"}
    with pytest.raises(LakeError, match=r"lpips is not in .* at the release's version"):
        released_pixels(lake, size=SIZE, columns=("lpips",))
    with pytest.raises(LakeError, match="there is no release@blur in"):
        released_pixels(lake, size=SIZE, recipe="blur")


def test_bytes_that_were_not_ingested_are_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    shutil.copytree(lake.uri, tmp_path / "lake")
    damaged = Lake.open(tmp_path / "lake")
    found = damaged.faces.snapshot().find(["p3/01"], ["shard", "image"])["p3/01"]
    half = found["image"][: len(found["image"]) // 2]
    damaged.faces.replace(
        pa.table({"image_id": ["p3/01"], "shard": [found["shard"]], "image": pa.array([half], pa.binary())})
    )
    snapshot = damaged.faces.snapshot()
    rows = PixelRows(RowReader(snapshot, row_ids_of(snapshot, ["p0/00", "p3/01"])), SIZE)
    assert rows[np.array([0])].shape == (1, SIZE, SIZE, 3)
    with pytest.raises(LakeError, match=r"the photograph p3/01 .* not those that were ingested"):
        rows.read(np.array([0, 1]))
    gone = RowReader(snapshot, np.array([int(rows.reader.row_ids[0]), 10**6]))
    with pytest.raises(LakeError, match="1 rows are gone"):
        gone.read(np.array([0]), ["image_id"])


def test_the_shortcut_and_the_ingests_decoder_agree_on_every_kind_of_photograph(good_photos) -> None:
    """The shortcut for common JPEGs gives the pixels of the careful decoder; whatever else takes that one."""
    from resources.photos.decoding import inspect_photo
    from resources.photos.stored import decode_stored, is_plain_jpeg

    plain = {name for name, data in good_photos.items() if is_plain_jpeg(data)}
    assert {"baseline.jpg", "progressive.jpg", "restarts.jpg", "subsampled.jpg", "fill_bytes.jpg"} <= plain
    assert not plain & {"cmyk.jpg", "grey.jpg", "plain.png", "lossy.webp"}
    for name, data in good_photos.items():
        facts = inspect_photo(data)
        assert hashlib.sha256(data).hexdigest() == facts.sha256
        wanted = np.zeros((120, 160, 3), np.uint8)
        written = decode_stored(data, facts.sha256, facts.orientation, wanted)
        assert (written is wanted) == (name in plain and facts.orientation in (None, 1)), name
        other = np.zeros((64, 64, 3), np.uint8)
        assert np.array_equal(decode_stored(data, facts.sha256, facts.orientation, other), written), name
        pixels = decode_stored(data, facts.sha256, facts.orientation)
        assert np.array_equal(written, pixels), name
        assert np.array_equal(pixels, decode_upright(data)), name
