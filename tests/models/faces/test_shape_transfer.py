"""Source shape in the target's photograph: a face on itself comes back, exact swaps come nearer."""

import math

import numpy as np
import pytest
import torch

from models.faces.reconstruction.bfm import synthetic_face_model
from models.faces.reconstruction.coefficients import split_coefficients
from models.faces.reconstruction.five_points import FivePointAlignment
from models.faces.reconstruction.geometry import FaceGeometry, project, rotation_matrix
from models.faces.shape_transfer import project_shape, recombine_coefficients, transfer_shape
from models.worlds import Attributes, Identities, render, sample_attributes, sample_identities

PAIRS = 40
SIZE = 8  # exact landmarks need no pixels
WIDEST = 0.62  # radians of yaw that the world allows


def exact_points(identities: Identities, attributes: Attributes) -> np.ndarray:
    """The world's landmarks (N, 68, 3) in pixels, the depth out of two turned views of the same faces."""

    def seen(**changes: float) -> np.ndarray:
        faces = render(identities, attributes.replace(**changes), SIZE, supersample=1, workers=1)
        return faces.landmarks_68_N682.astype(np.float64)

    upright = {"pitch": 0.0, "roll": 0.0, "shift_x": 0.0, "shift_y": 0.0, "scale": 1.0}
    right, left = seen(yaw=WIDEST, **upright), seen(yaw=-WIDEST, **upright)
    centre, unit = np.array([0.5, 0.51]) * SIZE, 0.40 * SIZE
    x = (right + left - 2 * centre)[..., 0] / (2 * math.cos(WIDEST) * unit)
    y = (centre - right)[..., 1] / unit
    z = (right - left)[..., 0] / (2 * math.sin(WIDEST) * unit)
    names = [parameter.name for parameter in attributes.parameters]
    yaw, pitch, scale = (attributes.values[:, names.index(name)] for name in ("yaw", "pitch", "scale"))
    yaw, pitch = yaw[:, None], pitch[:, None]
    towards = -np.cos(pitch) * np.sin(yaw) * x + np.sin(pitch) * y + np.cos(pitch) * np.cos(yaw) * z
    depth = -towards * unit * scale[:, None]
    return np.concatenate([seen(), depth[..., None]], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source points, target points, and the points of (source's identity, target's attributes)."""
    source, target = sample_identities(5, PAIRS), sample_identities(6, PAIRS)
    own, kept = sample_attributes(8, PAIRS), sample_attributes(7, PAIRS)
    return exact_points(source, own), exact_points(target, kept), exact_points(source, kept)


def inter_ocular(points_68: np.ndarray) -> float:
    return float(np.linalg.norm(points_68[36:42, :2].mean(axis=0) - points_68[42:48, :2].mean(axis=0)))


def test_a_face_on_itself_comes_back(pairs):
    for points in pairs[1] * 32:  # as in a photograph of 256 pixels
        np.testing.assert_allclose(transfer_shape(points, points), points[:, :2], atol=1e-4)


def test_pose_and_place_of_the_source_do_not_matter(pairs):
    source, target = pairs[0][0].astype(np.float64) * 32, pairs[1][0] * 32
    turn = rotation_matrix(torch.tensor([[0.3, -0.5, 0.2]], dtype=torch.float64))[0].numpy()
    moved = 1.7 * source @ turn.T + np.array([30.0, -20.0, 5.0])
    expected = transfer_shape(source.astype(np.float32), target)
    np.testing.assert_allclose(transfer_shape(moved.astype(np.float32), target), expected, atol=1e-3)


def test_transferred_points_are_nearer_to_the_exact_swap_than_the_targets(pairs):
    before, after = [], []
    for source, target, exact in zip(*pairs, strict=True):
        unit = inter_ocular(exact)
        for points, errors in ((target, before), (transfer_shape(source, target), after)):
            errors.append(np.linalg.norm(points[:, :2] - exact[:, :2], axis=1) / unit)
    before, after = np.array(before), np.array(after)
    # 0.107 and 0.074 of the distance between the eyes; every part of the face gains.
    assert after.mean() < 0.75 * before.mean()
    assert (after.mean(axis=1) < before.mean(axis=1)).mean() > 0.8
    for part in (slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68)):
        assert after[:, part].mean() < 0.9 * before[:, part].mean()


def test_the_targets_expression_stays():
    source, target = sample_identities(1, 2), sample_identities(2, 2)
    frontal = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "smile": 0.0, "brow_raise": 0.0, "frown": 0.0}
    calm = sample_attributes(3, 2).replace(**frontal, mouth_open=0.0, blink=0.0)
    opened, blinked = calm.replace(mouth_open=1.0), calm.replace(blink=0.9)
    resting = exact_points(source, calm)

    def gap(points: np.ndarray, upper: int, lower: int) -> float:
        return float(points[lower, 1] - points[upper, 1])

    nearer = []
    for row, seen in enumerate(exact_points(target, opened)):
        exact, moved = exact_points(source, opened)[row], transfer_shape(resting[row], seen)
        assert gap(moved, 62, 66) == pytest.approx(gap(exact, 62, 66), rel=0.2)
        assert gap(moved, 62, 66) > 5 * gap(resting[row], 62, 66)
        # the chin comes down too; how far, the source's own face decides
        assert gap(moved, 33, 8) > gap(resting[row], 33, 8)
        nearer.append(
            abs(gap(resting[row], 33, 8) - gap(exact, 33, 8)) - abs(gap(moved, 33, 8) - gap(exact, 33, 8))
        )
    assert np.mean(nearer) > 0
    for row, seen in enumerate(exact_points(target, blinked)):
        moved = transfer_shape(resting[row], seen)
        for upper, lower in ((37, 41), (44, 46)):
            assert 0 < gap(moved, upper, lower) < 0.4 * gap(resting[row], upper, lower)


def test_points_that_are_no_face_are_refused():
    with pytest.raises(ValueError, match="source_points_68x3 must have shape"):
        transfer_shape(np.zeros((68, 2), np.float32), np.zeros((68, 3), np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        transfer_shape(np.zeros((68, 3), np.float32), np.full((68, 3), np.nan, np.float32))


def test_recombined_coefficients_take_identity_alone():
    source, target = np.arange(257.0), -np.arange(257.0) - 1
    mixed = recombine_coefficients(source, target)
    np.testing.assert_array_equal(mixed[:80], source[:80])
    np.testing.assert_array_equal(mixed[80:], target[80:])
    batch = recombine_coefficients(np.stack([source, source]), np.stack([target, source]))
    np.testing.assert_array_equal(batch[0], mixed)
    np.testing.assert_array_equal(batch[1], source)
    with pytest.raises(ValueError, match="two equal shapes"):
        recombine_coefficients(source, target[:-1])


def test_projected_shape_is_the_sources_under_the_targets_pose_and_expression():
    model = synthetic_face_model(seed=1)
    random = np.random.default_rng(2)
    source, target = random.normal(0, 1, (2, 257)).astype(np.float32)
    target[224:227], target[254:] = [0.3, -0.5, 0.2], [0.05, -0.04, 0.1]
    alignment = FivePointAlignment(
        photo_width=512, photo_height=384, centre_x=260.0, centre_up=180.0, scale=0.8
    )
    geometry = FaceGeometry(model)
    points = project_shape(geometry, source, target, alignment)
    vertices = model.landmarks_68
    shape = (
        model.mean_shape[vertices]
        + model.identity_basis[vertices] @ source[:80]
        + model.expression_basis[vertices] @ target[80:144]
    )
    turned = torch.from_numpy(shape) @ rotation_matrix(torch.from_numpy(target[None, 224:227]))[0].T
    crop = project((turned + torch.from_numpy(target[254:]))[None].float())[0].numpy()
    np.testing.assert_allclose(points, alignment.to_photo(crop), atol=1e-2)
    own = geometry(split_coefficients(torch.from_numpy(target[None]))).landmarks_68[0, :, :2].numpy()
    np.testing.assert_allclose(project_shape(geometry, target, target, alignment), alignment.to_photo(own))
    behind = target.copy()
    behind[256] = 50.0
    with pytest.raises(ValueError, match="behind the camera"):
        project_shape(geometry, source, behind, alignment)
