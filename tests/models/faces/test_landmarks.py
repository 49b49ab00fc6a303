"""Landmarks and pose: geometry on photographs, and numbers against the procedural world's exact points."""

import cv2
import numpy as np
import pytest

from models.faces.images import Points
from models.faces.landmarks import eye_centres, head_pose, inter_ocular_px, landmarks_68_from_mesh
from models.faces.topology import FACE_OVAL, LANDMARKS_68, MIRROR
from models.worlds import render, sample_attributes, sample_identities

GROUPS = {
    "jaw": (range(17), 0.22),
    "brows": (range(17, 27), 0.28),
    "bridge": (range(27, 31), 0.12),
    "base of the nose": (range(31, 36), 0.12),
    "eyes": (range(36, 48), 0.08),
    "lips": (range(48, 68), 0.12),
}
"""Points of each group and the median error allowed, in eye distances."""


def pose_matrix(yaw: float, pitch: float, roll: float) -> Points:
    """Transform of a head that leans (clockwise in the picture), then nods up, then turns to the right."""

    def about(axis: int, degrees: float) -> np.ndarray:
        vector = np.zeros(3)
        vector[axis] = np.radians(degrees)
        return cv2.Rodrigues(vector)[0]

    matrix = np.eye(4)
    # In a frame with y up and z to the viewer a positive turn about x nods down and one about z leans left.
    matrix[:3, :3] = about(1, yaw) @ about(0, -pitch) @ about(2, -roll)
    return matrix.astype(np.float32)


@pytest.fixture(scope="module")
def world(detector, face_mesh) -> dict[str, np.ndarray]:
    """Sixteen rendered faces with their exact and their fitted landmarks."""
    faces = render(sample_identities(3, 16), sample_attributes(4, 16), size=256)
    fitted = []
    for image in faces.images_NHWC:
        found = detector.detect(image)
        fit = face_mesh.fit(image, found.boxes_N4[0]) if len(found) else None
        points = landmarks_68_from_mesh(fit.points_478x3)[:, :2] if fit else np.full((68, 2), np.nan)
        fitted.append(points)
    return {"exact": faces.landmarks_68_N682, "fitted": np.stack(fitted)}


def test_world_faces_are_found(world) -> None:
    assert np.isfinite(world["fitted"]).all(axis=(1, 2)).sum() >= 15


@pytest.mark.parametrize("group", GROUPS)
def test_fitted_landmarks_agree_with_exact_ones(world, group: str) -> None:
    """Jaw and brows are looser: the world follows its own head outline and the middle of its brows."""
    exact, fitted = world["exact"], world["fitted"]
    found = np.isfinite(fitted).all(axis=(1, 2))
    exact, fitted = exact[found], fitted[found]
    unit = np.linalg.norm(exact[:, 36:42].mean(axis=1) - exact[:, 42:48].mean(axis=1), axis=1)
    error = np.linalg.norm(fitted - exact, axis=2) / unit[:, None]
    indices, limit = GROUPS[group]
    assert np.median(error[:, list(indices)]) < limit


@pytest.mark.parametrize("group", ["eyes", "lips", "bridge", "base of the nose"])
def test_each_point_is_nearest_to_its_own_exact_point(world, group: str) -> None:
    """A swap of two neighbours would go unseen in a mean; here it would show."""
    found = np.isfinite(world["fitted"]).all(axis=(1, 2))
    exact, fitted = world["exact"][found], world["fitted"][found]
    indices = np.array(GROUPS[group][0])
    offset = (fitted - exact)[:, indices].mean(axis=1, keepdims=True)
    distance = np.linalg.norm((fitted[:, indices] - offset)[:, :, None] - exact[:, indices][:, None], axis=3)
    nearest = np.median(distance, axis=0).argmin(axis=1)
    assert (nearest == np.arange(len(indices))).mean() >= 0.9


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_order_of_the_68_points_on_a_photo(fits, name: str) -> None:
    points = landmarks_68_from_mesh(fits[name].points_478x3)
    assert points.shape == (68, 3)
    x, y = points[:, 0], points[:, 1]
    assert (np.diff(x[3:14]) > 0).all(), "the lower jaw runs from the picture's left to its right"
    assert y[8] == y.max(), "the chin is the lowest point"
    assert (np.diff(x[17:27]) > 0).all(), "brows"
    assert (np.diff(y[27:31]) > 0).all(), "bridge, downwards"
    assert (np.diff(x[31:36]) > 0).all(), "base of the nose"
    for first in (36, 42):
        assert x[first] < x[first + 1] < x[first + 2] < x[first + 3]
        assert (y[[first + 1, first + 2]] < y[[first + 5, first + 4]]).all(), "upper lid above lower lid"
    assert (np.diff(x[48:55]) > 0).all(), "upper lip"
    assert (np.diff(x[54:60]) < 0).all(), "lower lip, back"
    assert x[48] <= x[60] < x[64] <= x[54]
    assert (y[61:64] <= y[[67, 66, 65]]).all(), "the inner upper lip is not below the lower one"
    inside = cv2.convexHull(fits[name].points_478x3[list(FACE_OVAL), :2])
    assert all(cv2.pointPolygonTest(inside, (float(a), float(b)), True) > -1.0 for a, b in points[:, :2])


def test_points_are_mirror_images() -> None:
    """Mirroring the vertices of the table gives the table of the mirrored face."""
    both = MIRROR | {left: right for right, left in MIRROR.items()}
    jaw, brows, base = range(16, -1, -1), range(26, 16, -1), range(35, 30, -1)
    order = [*jaw, *brows, *range(27, 31), *base, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    order += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    assert [both.get(LANDMARKS_68[index], LANDMARKS_68[index]) for index in order] == list(LANDMARKS_68)
    assert len(set(LANDMARKS_68)) == 68


@pytest.mark.parametrize("yaw", [-60, -15, 0, 40])
@pytest.mark.parametrize("pitch", [-30, 0, 25])
@pytest.mark.parametrize("roll", [-45, 0, 10])
def test_pose_reads_back_a_known_rotation(yaw: float, pitch: float, roll: float) -> None:
    assert head_pose(pose_matrix(yaw, pitch, roll)) == pytest.approx((yaw, pitch, roll), abs=1e-3)
    scaled = pose_matrix(yaw, pitch, roll)
    scaled[:3] *= 1.7
    assert head_pose(scaled) == pytest.approx((yaw, pitch, roll), abs=1e-3)


def test_pose_signs_as_seen_in_the_picture() -> None:
    """Where the nose of a known head goes, without any rotation convention in between."""
    nose, crown = np.array([0, 0, 1.0, 1]), np.array([0, 1.0, 0, 1])
    assert (pose_matrix(20, 0, 0) @ nose)[0] > 0, "yaw > 0: the nose moves to the picture's right"
    assert (pose_matrix(0, 20, 0) @ nose)[1] > 0, "pitch > 0: the nose moves up"
    assert (pose_matrix(0, 0, 20) @ crown)[0] > 0, "roll > 0: the crown moves to the picture's right"


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_mirrored_photo_mirrors_the_pose(photos, fits, detector, face_mesh, name: str) -> None:
    flipped = np.ascontiguousarray(photos[name][:, ::-1])
    fit = face_mesh.fit(flipped, detector.detect(flipped).boxes_N4[0])
    yaw, pitch, roll = head_pose(fits[name].transform_4x4)
    assert head_pose(fit.transform_4x4) == pytest.approx((-yaw, pitch, -roll), abs=4)


def test_turned_photo_turns_the_roll_only(photos, fits, face_mesh) -> None:
    image, mesh = photos["hopper"], fits["hopper"].points_478x3
    centre = mesh[:, :2].mean(axis=0)
    # OpenCV's positive angle turns anticlockwise.
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), -20, 1.0)
    turned = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    box = np.concatenate([centre - 110, centre + 110])
    fit = face_mesh.fit(turned, box)
    before, after = head_pose(fits["hopper"].transform_4x4), head_pose(fit.transform_4x4)
    assert after[2] - before[2] == pytest.approx(20, abs=3)
    assert after[:2] == pytest.approx(before[:2], abs=5)


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_eye_distance_is_that_of_the_irises_in_a_forward_gaze(fits, name: str) -> None:
    mesh = fits[name].points_478x3
    irises = float(np.linalg.norm(mesh[468, :2] - mesh[473, :2]))
    assert inter_ocular_px(mesh) == pytest.approx(irises, rel=0.05)
    right, left = eye_centres(mesh)
    assert right[0] < left[0]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"points_478x3 must have shape \(478, 3\)"):
        landmarks_68_from_mesh(np.zeros((468, 3), np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        inter_ocular_px(np.full((478, 3), np.inf, np.float32))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        head_pose(np.eye(3, dtype=np.float32))
