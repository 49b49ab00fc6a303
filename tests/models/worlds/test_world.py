from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from models.worlds import Attributes, Identities, RenderedFaces, render, sample_attributes, sample_identities

BACKGROUND, SKIN, NOSE, MOUTH, UPPER_LIP, LOWER_LIP, NECK, CLOTH, HAIR = 0, 1, 10, 11, 12, 13, 14, 16, 17
RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE, GLASSES, LEFT_EAR, RIGHT_EAR = 2, 3, 4, 5, 6, 7, 8
DIGEST_PROGRAM = """
import hashlib
from models.worlds import render, sample_attributes, sample_identities
faces = render(sample_identities(5, 3), sample_attributes(5, 3), 64)
digest = hashlib.sha256()
for part in (faces.images_NHWC, faces.parsing_NHW, faces.landmarks_68_N682, faces.iris_N102):
    digest.update(part.tobytes())
print(digest.hexdigest())
"""


def assert_same(first: RenderedFaces, second: RenderedFaces) -> None:
    for name in (
        "images_NHWC",
        "parsing_NHW",
        "landmarks_68_N682",
        "iris_N102",
        "iris_radius_N2",
        "depth_NHW",
    ):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def class_near(parsing_HW: np.ndarray, point: np.ndarray, wanted: set[int], reach: int = 2) -> bool:
    x, y = int(np.floor(point[0])), int(np.floor(point[1]))
    window = parsing_HW[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
    return bool(wanted & set(window.ravel().tolist()))


def test_the_same_bytes_whatever_the_batch_and_the_threads() -> None:
    people, photographs = sample_identities(5, 6), sample_attributes(5, 6)
    whole = render(people, photographs, 64, workers=4)
    assert whole.images_NHWC.shape == (6, 64, 64, 3)
    assert whole.images_NHWC.dtype == np.uint8
    assert_same(whole, render(people, photographs, 64, workers=1))
    backwards = np.arange(6)[::-1].copy()
    turned = render(people[backwards], photographs[backwards], 64)
    np.testing.assert_array_equal(turned.images_NHWC[::-1], whole.images_NHWC)
    alone = render(people[3], photographs[3], 64)
    np.testing.assert_array_equal(alone.images_NHWC[0], whole.images_NHWC[3])
    np.testing.assert_array_equal(alone.landmarks_68_N682[0], whole.landmarks_68_N682[3])


def test_other_processes_give_the_same_bytes() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DIGEST_PROGRAM]
    digests = {
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_a_face_swapped_onto_its_own_photograph_is_that_photograph() -> None:
    people, photographs = sample_identities(6, 3), sample_attributes(6, 4)
    who = np.array([0, 1, 2, 0])
    photos = render(people[who], photographs, 96)
    for row, person in enumerate(who):
        swap = render(people[[int(person)]], photographs[row], 96)
        np.testing.assert_array_equal(swap.images_NHWC[0], photos.images_NHWC[row])
    other = render(people[np.array([1, 2, 0, 1])], photographs, 96)
    assert (other.images_NHWC != photos.images_NHWC).any(axis=(1, 2, 3)).all()


def test_an_identity_changes_nothing_outside_the_head(world_attributes: Attributes) -> None:
    people = sample_identities(21, 40)
    photographs = world_attributes
    first = render(people[np.arange(20)], photographs[np.arange(20)], 128)
    second = render(people[np.arange(20, 40)], photographs[np.arange(20)], 128)
    scenery = np.isin(first.parsing_NHW, [BACKGROUND, NECK, CLOTH]) & np.isin(
        second.parsing_NHW, [BACKGROUND, NECK, CLOTH]
    )
    # Reduction to pixels mixes classes on edges, so stay a pixel away from the head.
    inner = scenery.copy()
    for axis in (1, 2):
        for step in (-1, 1):
            inner &= np.roll(scenery, step, axis)
    assert inner.mean() > 0.2
    np.testing.assert_array_equal(first.images_NHWC[inner], second.images_NHWC[inner])
    face = np.isin(first.parsing_NHW, [SKIN, NOSE, UPPER_LIP, LOWER_LIP, RIGHT_EYE, LEFT_EYE])
    changed = np.abs(first.images_NHWC.astype(int) - second.images_NHWC.astype(int)).max(axis=-1) > 8
    for row in range(20):
        assert changed[row][face[row]].mean() > 0.2


def test_attributes_move_the_picture_and_keep_who_it_is() -> None:
    person = sample_identities(4, 1)
    base = sample_attributes(4, 1).replace(yaw=0.0, pitch=0.0, roll=0.0, mouth_open=0.0, smile=0.0, blink=0.0)
    still = render(person, base).landmarks_68_N682[0]
    nose = render(person, base.replace(yaw=0.4)).landmarks_68_N682[0, 30] - still[30]
    assert nose[0] > 20
    assert render(person, base.replace(pitch=0.25)).landmarks_68_N682[0, 30, 1] > still[30, 1] + 10
    tilted = render(person, base.replace(roll=0.2)).landmarks_68_N682[0]
    assert tilted[45, 1] < tilted[36, 1] - 10
    opened = render(person, base.replace(mouth_open=1.0)).landmarks_68_N682[0]
    assert opened[66, 1] - opened[62, 1] > still[66, 1] - still[62, 1] + 10
    closed = render(person, base.replace(blink=0.9)).landmarks_68_N682[0]
    assert closed[41, 1] - closed[37, 1] < 0.3 * (still[41, 1] - still[37, 1])
    looking = (
        render(person, base.replace(gaze_x=1.0)).iris_N102
        - render(person, base.replace(gaze_x=-1.0)).iris_N102
    )
    assert (looking[0, :, 0] > 5).all()


def test_landmarks_lie_on_their_classes(plain_attributes: Attributes) -> None:
    faces = render(sample_identities(9, 20), plain_attributes[np.arange(20) % 2], 256)
    for parsing, points, iris in zip(
        faces.parsing_NHW, faces.landmarks_68_N682, faces.iris_N102, strict=True
    ):
        lips = {UPPER_LIP, LOWER_LIP, MOUTH}
        for index in (48, 51, 54, 57, 60, 62, 64, 66):
            assert class_near(parsing, points[index], lips), index
        for index in (28, 29, 30):
            assert class_near(parsing, points[index], {NOSE}, 0), index
        for index in range(36, 42):
            assert class_near(parsing, points[index], {RIGHT_EYE}), index
        for index in range(42, 48):
            assert class_near(parsing, points[index], {LEFT_EYE}), index
        for index in (18, 19, 20):
            assert class_near(parsing, points[index], {RIGHT_BROW}), index
        for index in (23, 24, 25):
            assert class_near(parsing, points[index], {LEFT_BROW}), index
        assert class_near(parsing, points[8], {SKIN}, 3)
        assert class_near(parsing, points[8] + (0, 6), {NECK, CLOTH}, 3)
        assert class_near(parsing, iris[0], {RIGHT_EYE}, 0)
        assert class_near(parsing, iris[5], {LEFT_EYE}, 0)
        assert points[36, 0] < iris[0, 0] < points[39, 0] < points[42, 0] < iris[5, 0] < points[45, 0]


def test_iris_points_are_centre_right_top_left_bottom(world_faces: RenderedFaces) -> None:
    for eye in (0, 5):
        centre, right, top, left, bottom = (world_faces.iris_N102[:, eye + index] for index in range(5))
        assert (right[:, 0] > centre[:, 0]).all()
        assert (left[:, 0] < centre[:, 0]).all()
        assert (top[:, 1] < centre[:, 1]).all()
        assert (bottom[:, 1] > centre[:, 1]).all()
        reach = np.linalg.norm(right - left, axis=1) / 2
        # A turned head shows the iris narrower, never wider than facing the camera.
        assert (reach <= world_faces.iris_radius_N2[:, eye // 5] * 1.25).all()
        assert (reach >= world_faces.iris_radius_N2[:, eye // 5] * 0.5).all()


def test_left_and_right_are_the_subject_s(plain_attributes: Attributes) -> None:
    parsing = render(sample_identities(1, 1), plain_attributes[0], 128).parsing_NHW[0]
    for right, left in ((RIGHT_BROW, LEFT_BROW), (RIGHT_EYE, LEFT_EYE), (RIGHT_EAR, LEFT_EAR)):
        assert np.argwhere(parsing == right)[:, 1].mean() < 64 < np.argwhere(parsing == left)[:, 1].mean()
    assert set(np.unique(parsing)) <= {0, 1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 16, 17}
    upper, lower = np.argwhere(parsing == UPPER_LIP), np.argwhere(parsing == LOWER_LIP)
    assert upper[:, 0].mean() < lower[:, 0].mean()


def test_glasses_are_worn_when_asked_for(plain_attributes: Attributes) -> None:
    person = sample_identities(1, 1)
    for kind in (1.0, 2.0):
        worn = render(person, plain_attributes[0].replace(glasses=kind), 128)
        assert (worn.parsing_NHW == GLASSES).sum() > 300
        x, y = np.floor(worn.iris_N102[0, 0]).astype(int)
        assert worn.parsing_NHW[0, y, x] == GLASSES


def test_crops_show_more_or_less_of_the_same_head() -> None:
    person = sample_identities(1, 4)
    photographs = sample_attributes(2, 4, occluded=0.0).replace(yaw=0.0, pitch=0.0, shift_x=0.0, shift_y=0.0)
    face, portrait, bust = (render(person, photographs.replace(crop=crop), 128) for crop in (0.0, 1.0, 2.0))
    between = [
        np.linalg.norm(faces.landmarks_68_N682[:, 36] - faces.landmarks_68_N682[:, 45], axis=1)
        for faces in (face, portrait, bust)
    ]
    np.testing.assert_allclose(between[0] / between[1], 1.38, rtol=1e-4)
    np.testing.assert_allclose(between[2] / between[1], 0.72, rtol=1e-4)
    middle = face.landmarks_68_N682.mean(axis=1)
    assert (np.abs(middle - 64) < 0.1 * 128).all()
    assert ((face.landmarks_68_N682 > 0) & (face.landmarks_68_N682 < 128 * 1.04)).all()
    cloth = [(faces.parsing_NHW == CLOTH).sum() for faces in (face, portrait, bust)]
    assert cloth[0] < cloth[1] < cloth[2]


def test_an_occluder_hides_the_face_and_belongs_to_the_photograph() -> None:
    people = sample_identities(6, 2)
    photograph = sample_attributes(6, 1, crops=("face",), occluded=0.0).replace(yaw=0.0, pitch=0.0, roll=0.0)
    both = photograph[np.array([0, 0])].replace(occluder_height=1.0, occluder_side=0.3)
    bare = render(people, both, 96)
    for kind, label in ((1.0, BACKGROUND), (2.0, BACKGROUND), (3.0, CLOTH)):
        covered = render(people, both.replace(occluder=kind), 96)
        np.testing.assert_array_equal(covered.landmarks_68_N682, bare.landmarks_68_N682)
        np.testing.assert_array_equal(covered.depth_NHW, bare.depth_NHW)
        hidden = bare.visible_face_NHW & ~covered.visible_face_NHW
        share = hidden.sum(axis=(1, 2)) / bare.visible_face_NHW.sum(axis=(1, 2))
        assert (share > 0.02).all()
        assert (share < 0.5).all()
        assert (covered.parsing_NHW[hidden] == label).all()
        # Elsewhere nothing changes, and before both faces it is the very same thing.
        unchanged = (bare.images_NHWC == covered.images_NHWC).all(axis=-1)
        assert unchanged[covered.visible_face_NHW].mean() > 0.97
        inner = hidden[0] & hidden[1]
        for step, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            inner &= np.roll(hidden[0] & hidden[1], step, axis)
        assert inner.sum() > 10
        # The gaps between fingers are narrower than a pixel and let a little of each face through.
        first, second = (image[inner].astype(int) for image in covered.images_NHWC)
        np.testing.assert_allclose(first, second, atol=6)
        assert (first == second).mean() > 0.95


def test_the_visible_face_is_the_face_s_classes(world_faces: RenderedFaces) -> None:
    classes = {SKIN, RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE, GLASSES, NOSE, MOUTH, UPPER_LIP, LOWER_LIP}
    assert set(np.unique(world_faces.parsing_NHW[world_faces.visible_face_NHW])) == classes


def test_depth_is_that_of_the_head_s_surface(plain_attributes: Attributes) -> None:
    faces = render(sample_identities(9, 6), plain_attributes[np.zeros(6, int)], 128)
    for parsing, depth, points in zip(
        faces.parsing_NHW, faces.depth_NHW, faces.landmarks_68_N682, strict=True
    ):

        def at(index: int, depth: np.ndarray = depth, points: np.ndarray = points) -> float:
            x, y = np.floor(points[index]).astype(int)
            return float(depth[y, x])

        # Nose tip before its bridge before the eyes before the ears, and the tip is nowhere surpassed.
        assert at(30) > at(27) > at(36) > np.nanmean(depth[np.isin(parsing, (LEFT_EAR, RIGHT_EAR))])
        assert at(30) > np.nanmax(depth) - 0.05
        assert at(36) == pytest.approx(at(45), abs=0.05)  # a frontal head is symmetric
        assert np.isnan(depth[parsing == BACKGROUND]).mean() > 0.97
        assert not np.isnan(depth[np.isin(parsing, (SKIN, NOSE, LEFT_EYE, RIGHT_EYE))]).any()
        assert np.nanmin(depth) > -1.5
        assert np.nanmax(depth) < 1.6


def test_sizes_agree_on_where_things_are() -> None:
    person, photograph = sample_identities(3, 1), sample_attributes(3, 1)
    small, large = render(person, photograph, 64), render(person, photograph, 256)
    np.testing.assert_allclose(small.landmarks_68_N682 * 4, large.landmarks_68_N682, atol=1e-3)
    shrunk = large.images_NHWC.reshape(1, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.images_NHWC).mean() < 2.5


def test_bad_calls_are_refused(world_identities: Identities, world_attributes: Attributes) -> None:
    with pytest.raises(ValueError, match="3 identities do not match 2"):
        render(world_identities[:3], world_attributes[:2])
    with pytest.raises(ValueError, match="must be positive"):
        render(world_identities[:1], world_attributes[:1], 0)
