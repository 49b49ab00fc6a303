"""68 landmarks, pose and iris: order, symmetry and signs, by geometry and against the world's exact truth."""

import cv2
import numpy as np
import pytest

from models.faces.detection import CenterFace, choose_face
from models.faces.iris import eye_openness, eyes_open, iris_from_mesh
from models.faces.landmarks import eye_centres, head_pose, inter_ocular_px, landmarks_68_from_mesh
from models.faces.mesh import FaceMesh, MeshFit
from models.faces.topology import LANDMARKS_68, LEFT_EYE, RIGHT_EYE
from models.worlds import Attributes, RenderedFaces, render, sample_attributes, sample_identities

FACES = 16

# iBUG index of each point's partner in the mirrored face.
MIRRORED_68 = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ]
)


def fit_face(detector: CenterFace, mesh: FaceMesh, image: np.ndarray) -> MeshFit | None:
    found = detector.detect(image)
    face = choose_face(found)
    return None if face is None else mesh.fit(image, found.boxes_N4[face])


@pytest.fixture(scope="module")
def world_attributes() -> Attributes:
    return sample_attributes(11, FACES).replace(glasses=0.0)


@pytest.fixture(scope="module")
def world(world_attributes) -> RenderedFaces:
    return render(sample_identities(11, FACES), world_attributes, 256, workers=1)


@pytest.fixture(scope="module")
def world_fits(world, detector, face_mesh) -> dict[int, MeshFit]:
    fits = {row: fit_face(detector, face_mesh, image) for row, image in enumerate(world.images_NHWC)}
    found = {row: fit for row, fit in fits.items() if fit is not None}
    assert len(found) >= 0.9 * FACES
    return found


@pytest.fixture(scope="module")
def errors_68(world, world_fits) -> np.ndarray:
    """Median distance to the truth of each of the 68 points, in distances of the outer eye corners."""
    rows = []
    for row, fit in world_fits.items():
        exact = world.landmarks_68_N682[row]
        distance = np.linalg.norm(landmarks_68_from_mesh(fit.points_478x3)[:, :2] - exact, axis=1)
        rows.append(distance / np.linalg.norm(exact[36] - exact[45]))
    return np.median(rows, axis=0)


@pytest.mark.parametrize(
    ("points", "allowed"),
    [
        # The world's jaw divides another curve and its brow points run along the brow's middle, ours along
        # its upper edge; eyes, nose and mouth mean the same spot in both.
        (slice(0, 17), 0.18),
        (slice(17, 27), 0.18),
        (slice(27, 36), 0.08),
        (slice(36, 48), 0.06),
        (slice(48, 68), 0.10),
    ],
)
def test_landmarks_agree_with_the_exact_ones(errors_68, points: slice, allowed: float) -> None:
    assert errors_68[points].max() < allowed, errors_68[points].round(3)


@pytest.mark.parametrize(
    ("points", "share"),
    [
        # Lids, nose tip and the middles of the lips stand alone; points of the nose base are 2 to 4 px apart.
        ((30, *range(36, 48), 51, 57), 0.85),
        (tuple(range(31, 36)), 0.5),
    ],
)
def test_points_are_nearest_to_their_own_truth(
    world, world_fits, points: tuple[int, ...], share: float
) -> None:
    """Of all 68 exact points none is nearer than the one with the same number: the order is right."""
    hits = np.zeros(68)
    for row, fit in world_fits.items():
        landmarks = landmarks_68_from_mesh(fit.points_478x3)[:, :2]
        distance = np.linalg.norm(landmarks[:, None] - world.landmarks_68_N682[row][None], axis=2)
        hits += distance.argmin(axis=1) == np.arange(68)
    assert hits[list(points)].min() >= share * len(world_fits), hits[list(points)]


def test_a_mirrored_photo_has_mirrored_points(photos, fits, detector, face_mesh) -> None:
    image = np.ascontiguousarray(photos["hopper"][:, ::-1])
    fit = fit_face(detector, face_mesh, image)
    assert fit is not None
    plain = fits["hopper"].points_478x3
    width = image.shape[1]
    mirrored = landmarks_68_from_mesh(fit.points_478x3)[MIRRORED_68, :2] * (-1, 1) + (width, 0)
    distance = np.linalg.norm(mirrored - landmarks_68_from_mesh(plain)[:, :2], axis=1)
    assert distance.max() < 0.12 * inter_ocular_px(plain)
    # Rim points: right and left change places, top and bottom stay.
    iris = iris_from_mesh(fit.points_478x3)[[5, 8, 7, 6, 9, 0, 3, 2, 1, 4]] * (-1, 1) + (width, 0)
    assert np.linalg.norm(iris - iris_from_mesh(plain), axis=1).max() < 0.06 * inter_ocular_px(plain)


def test_landmarks_are_vertices_of_the_mesh(fits) -> None:
    points = fits["astronaut"].points_478x3
    landmarks = landmarks_68_from_mesh(points)
    assert (landmarks.shape, landmarks.dtype) == ((68, 3), np.float32)
    assert len(set(LANDMARKS_68)) == 68
    np.testing.assert_array_equal(landmarks[[8, 30, 36, 45]], points[[152, 1, 33, 263]])
    assert (np.diff(landmarks[:17, 0]) > 0).all()  # a frontal jaw runs from the picture's left to its right
    assert landmarks[8, 1] == landmarks[:, 1].max()


def test_inter_ocular_distance(fits) -> None:
    for fit in fits.values():
        points = fit.points_478x3
        corners = points[[33, 133, 362, 263], :2]
        inner = np.linalg.norm(corners[1] - corners[2])
        outer = np.linalg.norm(corners[0] - corners[3])
        assert inner < inter_ocular_px(points) < outer
        assert inter_ocular_px(points) == pytest.approx((inner + outer) / 2, rel=0.03)
        assert inter_ocular_px(points * 3) == pytest.approx(3 * inter_ocular_px(points), rel=1e-5)
        assert eye_centres(points)[0, 0] < eye_centres(points)[1, 0]


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Right-handed rotation in x right, y up, z to the camera."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


@pytest.mark.parametrize("yaw", [-70.0, 0.0, 35.0])
@pytest.mark.parametrize("pitch", [-30.0, 0.0, 50.0])
@pytest.mark.parametrize("roll", [-120.0, 0.0, 20.0])
def test_head_pose_is_read_as_documented(yaw: float, pitch: float, roll: float) -> None:
    """Clockwise in the picture is a negative turn about z; a nose that points up a negative turn about x.

    Yaw is the direction of the nose in the horizontal plane, so it is the outermost turn.
    """
    nose = rotation("y", yaw) @ rotation("x", -pitch) @ (0, 0, 1)
    assert np.degrees(np.arcsin(nose[1])) == pytest.approx(pitch)
    transform = np.eye(4, dtype=np.float32)
    transform[:3, :3] = 1.7 * rotation("y", yaw) @ rotation("x", -pitch) @ rotation("z", -roll)
    transform[:3, 3] = (3, -4, -40)
    assert head_pose(transform) == pytest.approx((yaw, pitch, roll), abs=1e-3)


def test_pose_follows_the_worlds_heads(world_attributes, world_fits) -> None:
    rows = list(world_fits)
    poses = np.array([head_pose(fit.transform_4x4) for fit in world_fits.values()])
    # The world's pitch points the nose down and its roll turns counter-clockwise: both signs are opposite.
    for axis, (name, sign, least) in enumerate((("yaw", 1, 0.97), ("pitch", -1, 0.6), ("roll", -1, 0.9))):
        truth = np.degrees(world_attributes.column(name)[rows])
        assert sign * np.corrcoef(truth, poses[:, axis])[0, 1] > least, name


@pytest.mark.parametrize("degrees", [-25, 25])
def test_roll_is_clockwise_in_the_picture(photos, fits, detector, face_mesh, degrees: int) -> None:
    image = photos["astronaut"]
    # OpenCV's positive angle turns counter-clockwise.
    turn = cv2.getRotationMatrix2D((226.0, 120.0), -degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    fit = fit_face(detector, face_mesh, turned)
    assert fit is not None
    change = head_pose(fit.transform_4x4)[2] - head_pose(fits["astronaut"].transform_4x4)[2]
    assert change == pytest.approx(degrees, abs=3)


def test_pose_of_the_portraits_is_nearly_frontal(fits) -> None:
    for fit in fits.values():
        assert np.abs(head_pose(fit.transform_4x4)).max() < 15


def test_iris_agrees_with_the_exact_one(world, world_fits) -> None:
    errors = []
    for row, fit in world_fits.items():
        scale = np.linalg.norm(world.landmarks_68_N682[row, 36] - world.landmarks_68_N682[row, 45])
        errors.append(np.linalg.norm(iris_from_mesh(fit.points_478x3) - world.iris_N102[row], axis=1) / scale)
    # The rim is about 0.09 from the centre, so no two points can be exchanged.
    assert (np.median(errors, axis=0) < 0.04).all()


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_iris_centres_lie_inside_the_lids(fits, name: str) -> None:
    points = fits[name].points_478x3
    iris = iris_from_mesh(points)
    assert (iris.shape, iris.dtype) == ((10, 2), np.float32)
    for first, contour in ((0, RIGHT_EYE), (5, LEFT_EYE)):
        lids = points[list(contour), :2]
        x, y = (float(value) for value in iris[first])
        assert cv2.pointPolygonTest(lids[:, None], (x, y), False) > 0
        right, top, left, bottom = iris[first + 1 : first + 5]
        assert left[0] < x < right[0]
        assert top[1] < y < bottom[1]


def test_openness_tells_open_from_shut() -> None:
    points = np.zeros((478, 3), np.float32)
    for contour in (RIGHT_EYE, LEFT_EYE):
        angle = np.linspace(np.pi, -np.pi, 16, endpoint=False)  # outer corner, upper lid, inner corner, lower
        points[list(contour)] = np.stack([10 * np.cos(angle), -3 * np.sin(angle), 0 * angle], axis=1)
    expected = 0.3 * np.sin(np.pi / 8 * np.arange(1, 8)).mean()
    np.testing.assert_allclose(eye_openness(points), [expected, expected], rtol=1e-5)
    points[list(LEFT_EYE), 1] *= 0.3
    assert eyes_open(points) == (True, False)


def test_a_blink_closes_the_eyes(detector, face_mesh) -> None:
    frontal = sample_attributes(2, 2).replace(yaw=0.0, pitch=0.0, roll=0.0, glasses=0.0, gaze_y=0.0)
    blinking = frontal.replace(blink=np.array([0.0, 0.8]))
    people = sample_identities(7, 3)
    for person in range(len(people)):
        photos = render(people[[person, person]], blinking, 256, workers=1).images_NHWC
        fits = [fit_face(detector, face_mesh, photo) for photo in photos]
        assert fits[0] is not None
        assert fits[1] is not None
        assert (eye_openness(fits[1].points_478x3) < 0.8 * eye_openness(fits[0].points_478x3)).all()


def test_the_portraits_have_open_eyes(fits) -> None:
    for fit in fits.values():
        assert eyes_open(fit.points_478x3) == (True, True)
        assert ((eye_openness(fit.points_478x3) > 0.15) & (eye_openness(fit.points_478x3) < 0.5)).all()


@pytest.mark.parametrize("function", [landmarks_68_from_mesh, iris_from_mesh, inter_ocular_px, eye_openness])
def test_wrong_meshes_are_refused(function) -> None:
    with pytest.raises(ValueError, match="points_478x3 must have shape"):
        function(np.zeros((468, 3), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        function(np.full((478, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="transform_4x4 must have shape"):
        head_pose(np.eye(3, dtype=np.float32))
