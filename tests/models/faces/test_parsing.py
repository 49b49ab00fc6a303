"""Parsing polygons against a brute-force reference, the person mask, and lossless storage."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.faces import constants, topology
from models.faces.detection import CenterFace
from models.faces.mesh import FaceMesh
from models.faces.parsing import (
    SECOND_LOOK_BORDER,
    PersonSegmenter,
    decode_codes,
    encode_codes,
    pack_mask,
    parsing_from_mesh,
    polygon_mask,
    unpack_mask,
    visible_face_mask,
)
from models.worlds.benchmark import benchmark_pairs
from models.worlds.world import render


@pytest.fixture(scope="module")
def segmenter(segmenter_path: Path):
    with PersonSegmenter(segmenter_path) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def parsed(photos, fits, segmenter) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for name, image in photos.items():
        person = segmenter.segment(image)
        found[name] = (parsing_from_mesh(fits[name].points_478x3, person, image.shape[:2]), person)
    return found


CLOSE_UPS = (7, 41)
"""Pairs of the benchmark in whose source photographs the segmenter finds nobody."""


@pytest.fixture(scope="module")
def close_ups(detector: CenterFace, face_mesh: FaceMesh) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Picture, mesh and true visible face of each, 192 px."""
    pairs = benchmark_pairs(max(CLOSE_UPS) + 1)
    found = []
    for row in CLOSE_UPS:
        pair = pairs[row : row + 1]
        rendered = render(pair.sources, pair.source_attributes, 192)
        image = rendered.images_NHWC[0]
        fit = face_mesh.fit(image, detector.detect(image, score_threshold=0.35).boxes_N4[0])
        assert fit is not None
        found.append((image, fit.points_478x3, rendered.visible_face_NHW[0]))
    return found


def centre(codes: np.ndarray, code: int) -> np.ndarray:
    rows, columns = np.nonzero(codes == code)
    return np.array([columns.mean(), rows.mean()]) + 0.5


def inside(point: tuple[float, float], corners: np.ndarray) -> bool:
    """Even-odd rule by one ray, in plain Python."""
    x, y = point
    odd = False
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            odd = not odd
    return odd


@pytest.mark.parametrize("seed", range(5))
def test_polygons_hold_the_pixels_whose_centre_is_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-6, 30, (9, 2))  # crosses itself and leaves the picture
    mask = polygon_mask(corners, (20, 26))
    expected = [[inside((x + 0.5, y + 0.5), corners) for x in range(26)] for y in range(20)]
    np.testing.assert_array_equal(mask, expected)
    assert 0 < mask.sum() < mask.size


def test_a_rectangle_has_its_area_and_neighbours_share_no_pixel() -> None:
    left = polygon_mask(np.array([[2.0, 3], [7.5, 3], [7.5, 9], [2, 9]]), (12, 12))
    right = polygon_mask(np.array([[7.5, 3], [11, 3], [11, 9], [7.5, 9]]), (12, 12))
    assert left.sum() + right.sum() == 9 * 6
    assert not (left & right).any()


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_parts_lie_where_they_belong(parsed, fits, name: str) -> None:
    codes, _ = parsed[name]
    points = fits[name].points_478x3
    assert set(np.unique(codes)) <= {0, 1, 2, 3, 4, 5, 10, 11, 12, 13}
    for code, vertices in ((4, (468,)), (5, (473,)), (10, (1, 4)), (12, (0,)), (13, (17,))):
        for x, y in points[list(vertices), :2]:
            around = codes[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4]
            assert (around == code).any(), (code, vertices)
    # Left and right are the subject's; y grows downwards.
    assert centre(codes, constants.RIGHT_EYE)[0] < centre(codes, constants.LEFT_EYE)[0]
    assert centre(codes, constants.RIGHT_BROW)[0] < centre(codes, constants.LEFT_BROW)[0]
    order = [constants.RIGHT_BROW, constants.RIGHT_EYE, constants.NOSE, constants.UPPER_LIP]
    heights = [centre(codes, code)[1] for code in [*order, constants.LOWER_LIP]]
    assert heights == sorted(heights)
    # Skin is the largest part, and the oval of a face is taller than wide but not twice.
    rows, columns = np.nonzero(codes)
    assert (codes == constants.SKIN).sum() > 0.6 * len(rows)
    assert 1.0 < np.ptp(rows) / np.ptp(columns) < 1.7


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_the_person_is_found(parsed, fits, name: str) -> None:
    codes, person = parsed[name]
    assert (person.dtype, person.shape) == (np.bool_, codes.shape)
    assert 0.15 < person.mean() < 0.85
    x, y = fits[name].points_478x3[1, :2].astype(int)
    assert person[y, x]
    assert not person[:30, :20].any()
    visible = visible_face_mask(codes, person)
    np.testing.assert_array_equal(visible, codes > 0)


def test_a_close_up_in_which_nobody_is_found_is_looked_at_again(close_ups, segmenter) -> None:
    for image, mesh, truth in close_ups:
        size = image.shape[:2]
        oval = polygon_mask(mesh[list(topology.FACE_OVAL), :2], size)
        assert segmenter.segment(image)[oval].mean() < 0.05
        person = segmenter.segment_with_face(image, mesh)
        assert person.shape == size
        visible = visible_face_mask(parsing_from_mesh(mesh, person, size), person)
        assert (visible & truth).sum() / (visible | truth).sum() > 0.75


def test_a_second_look_is_a_look_at_the_picture_within_black(close_ups, segmenter) -> None:
    image, mesh, _ = close_ups[0]
    height, width = image.shape[:2]
    border = round(SECOND_LOOK_BORDER * max(height, width))
    around = np.zeros((height + 2 * border, width + 2 * border, 3), np.uint8)
    around[border : border + height, border : border + width] = image
    expected = segmenter.segment(around)[border : border + height, border : border + width]
    np.testing.assert_array_equal(segmenter.segment_with_face(image, mesh), expected)


def test_a_face_that_is_found_at_once_keeps_its_mask_to_the_bit(photos, fits, segmenter) -> None:
    for name, image in photos.items():
        first = segmenter.segment(image)
        np.testing.assert_array_equal(segmenter.segment_with_face(image, fits[name].points_478x3), first)


def test_where_nobody_is_found_a_second_time_either_there_is_no_person(close_ups, segmenter) -> None:
    image, mesh, _ = close_ups[0]
    blank = np.full_like(image, 128)
    assert not segmenter.segment_with_face(blank, mesh).any()
    with pytest.raises(ValueError, match="points_478x3"):
        segmenter.segment_with_face(blank, mesh[:468])


def test_nothing_is_claimed_off_the_person(photos, fits) -> None:
    size = photos["astronaut"].shape[:2]
    points = fits["astronaut"].points_478x3
    person = np.ones(size, np.bool_)
    person[:, : int(points[1, 0])] = False
    codes = parsing_from_mesh(points, person, size)
    assert not codes[~person].any()
    assert not (codes == constants.RIGHT_EYE).any()
    assert (codes == constants.LEFT_EYE).any()
    with_ear = codes.copy()
    with_ear[0, -1], with_ear[1, -1], with_ear[0, 0] = 7, 17, 1  # an ear, hair, skin off the person
    visible = visible_face_mask(with_ear, person)
    assert visible[0, -1]
    assert not visible[1, -1]
    assert not visible[0, 0]


def test_a_face_that_leaves_the_picture_is_cut(photos, fits) -> None:
    points = fits["astronaut"].points_478x3
    x = int(points[1, 0])
    whole = parsing_from_mesh(points, np.ones((512, 512), np.bool_), (512, 512))
    moved = points - np.array([x, 0, 0], np.float32)
    cut = parsing_from_mesh(moved, np.ones((512, 250), np.bool_), (512, 250))
    np.testing.assert_array_equal(cut, whole[:, x : x + 250])


def test_small_pictures_keep_their_parts(fits) -> None:
    """At an eighth of the size the areas still agree to a few pixels: no edge is thickened."""
    points = fits["hopper"].points_478x3
    large = parsing_from_mesh(points, np.ones((600, 512), np.bool_), (600, 512))
    small = parsing_from_mesh(points / 8, np.ones((75, 64), np.bool_), (75, 64))
    for code in (constants.SKIN, constants.NOSE, constants.LEFT_EYE, constants.RIGHT_BROW):
        assert (small == code).sum() == pytest.approx((large == code).sum() / 64, abs=8)
    assert abs((small > 0).sum() - (large > 0).sum() / 64) < 8


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 18)))
def test_codes_survive_storage(codes: np.ndarray) -> None:
    data = encode_codes(codes)
    assert data == encode_codes(codes.copy())
    back = decode_codes(data, (codes.shape[0], codes.shape[1]))
    np.testing.assert_array_equal(back, codes)
    back[0, 0] = 7  # a copy of its own, free to be changed


@settings(max_examples=40, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_masks_survive_storage(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), (mask.shape[0], mask.shape[1])), mask)


def test_storage_is_small(parsed) -> None:
    codes, person = parsed["astronaut"]
    assert len(encode_codes(codes)) < codes.size / 200
    assert len(pack_mask(visible_face_mask(codes, person))) < codes.size / 8 / 50


def test_damaged_or_foreign_bytes_are_refused(parsed) -> None:
    codes, person = parsed["astronaut"]
    for data, decode in ((encode_codes(codes), decode_codes), (pack_mask(person), unpack_mask)):
        for wrong in (data[:-3], b"", b"not zstd at all", data[5:]):
            with pytest.raises(ValueError, match="512x512"):
                decode(wrong, (512, 512))
        for size in ((512, 500), (512, 1024)):
            with pytest.raises(ValueError, match="do not hold a mask"):
                decode(data, size)


def test_wrong_inputs_are_named(segmenter, fits, tmp_path: Path) -> None:
    points = fits["astronaut"].points_478x3
    with pytest.raises(ValueError, match="points_478x3 must have shape"):
        parsing_from_mesh(points[:468], np.ones((9, 9), np.bool_), (9, 9))
    with pytest.raises(ValueError, match="person_mask must have shape"):
        parsing_from_mesh(points, np.ones((9, 8), np.bool_), (9, 9))
    with pytest.raises(ValueError, match="uint8 HxW"):
        encode_codes(np.zeros((3, 3), np.int64))  # pyright: ignore[reportArgumentType] - the error is tested
    with pytest.raises(ValueError, match="bool HxW"):
        pack_mask(np.zeros((3, 3), np.uint8))  # pyright: ignore[reportArgumentType] - the error is tested
    with pytest.raises(ValueError, match="uint8 RGB"):
        segmenter.segment(np.zeros((9, 9), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"absent\.tflite"):
        PersonSegmenter(tmp_path / "absent.tflite")
