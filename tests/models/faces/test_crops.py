"""Any photograph: several faces, none, the chosen one; crops in two styles, and pasting back."""

import cv2
import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from models.faces.alignment import (
    VGGFACE2_TEMPLATES,
    align_to_vggface2,
    invert,
    paste_back,
    transform_points,
    warp,
)
from models.faces.choice import choose_faces
from models.faces.crops import face_crops
from models.faces.landmarks import landmarks_68_from_mesh
from models.identity.arcface_alignment import arcface_points_from_68

BOXES = np.array([[90, 40, 110, 60], [0, 0, 50, 50], [160, 60, 200, 100]], np.float32)


@pytest.fixture(scope="module")
def tile(photos) -> np.ndarray:
    """Two portraits side by side: the astronaut at the left, Hopper, the larger face, at the right."""
    right = cv2.resize(photos["hopper"], (437, 512), interpolation=cv2.INTER_AREA)
    return np.concatenate([photos["astronaut"], right], axis=1)


@pytest.fixture(scope="module")
def five(fits) -> np.ndarray:
    return arcface_points_from_68(landmarks_68_from_mesh(fits["astronaut"].points_478x3))


def test_choices() -> None:
    assert choose_faces(BOXES, "largest") == [1]
    assert choose_faces(BOXES, "centre") == [0]
    assert choose_faces(BOXES, "all") == [1, 0, 2]
    for choice in ("largest", "centre", "all"):
        assert choose_faces(BOXES[:0], choice) == []


def test_closest_is_the_nearest_embedding_within_the_limit() -> None:
    embeddings = np.array([[0.0, 1], [0.5, 0], [np.nan, 0]], np.float32)
    wanted = np.array([0.9, 0.0], np.float32)
    assert choose_faces(BOXES, "closest", embeddings_ND=embeddings, identity_D=wanted) == [1]
    near = {"embeddings_ND": embeddings, "identity_D": wanted, "max_distance": 0.39}
    assert choose_faces(BOXES, "closest", **near) == []
    with pytest.raises(ValueError, match="needs the embedding"):
        choose_faces(BOXES, "closest")
    with pytest.raises(ValueError, match=r"embeddings of \(3, 2\)"):
        choose_faces(BOXES, "closest", embeddings_ND=embeddings[:2], identity_D=wanted)


@pytest.mark.parametrize("turn", range(5))
def test_vggface2_frame_is_the_template_that_fits_best(turn: int) -> None:
    """Against skimage's estimate for each of the templates, which count from pixel centres."""
    template = np.array(VGGFACE2_TEMPLATES[turn]) * 512 / 112
    random = np.random.default_rng(turn)
    moved = SimilarityTransform(scale=0.4, rotation=0.3, translation=(70, 40))
    points = moved(template) + random.normal(0, 0.3, (5, 2))
    fits = [
        SimilarityTransform.from_estimate(points, np.array(one) * 512 / 112) for one in VGGFACE2_TEMPLATES
    ]
    errors = [
        np.linalg.norm(fit(points) - np.array(one) * 512 / 112, axis=1).sum()
        for fit, one in zip(fits, VGGFACE2_TEMPLATES, strict=True)
    ]
    assert int(np.argmin(errors)) == turn
    grid = random.uniform(0, 300, (20, 2))
    ours = transform_points(
        (grid + 0.5).astype(np.float32), align_to_vggface2((points + 0.5).astype(np.float32))
    )
    np.testing.assert_allclose(ours, fits[turn](grid) + 0.5, atol=0.01)


@pytest.mark.parametrize("style", ["ffhq", "vggface2"])
def test_two_faces_are_cut_out_and_the_way_back_is_exact(tile, detector, face_mesh, style) -> None:
    crops = face_crops(tile, detector, face_mesh, style=style, size=256)
    assert [crop.box_4[0] < 512 for crop in crops] == [True, False]
    (largest,) = face_crops(tile, detector, face_mesh, choice="largest", style=style, size=256)
    np.testing.assert_array_equal(largest.image, crops[1].image)
    for crop in crops:
        there = transform_points(crop.landmarks_68, crop.matrix_2x3)
        assert ((there > 20) & (there < 236)).mean() > 0.9
        back = transform_points(there, invert(crop.matrix_2x3))
        assert np.abs(back - crop.landmarks_68).max() <= 0.01
        assert crop.inter_ocular > 30
        assert abs(crop.yaw) < 30
    assert face_crops(np.full((200, 200, 3), 90, np.uint8), detector, face_mesh) == []


@pytest.mark.parametrize("feather", [0.0, 9.0])
def test_pasting_changes_only_what_the_mask_covers(photos, five, feather: float) -> None:
    photo = photos["astronaut"]
    matrix = align_to_vggface2(five, 256)
    rows, columns = np.mgrid[:256, :256]
    mask = (columns - 128) ** 2 + (rows - 140) ** 2 < 70**2
    red = np.full((256, 256, 3), (255, 0, 0), np.uint8)
    result = paste_back(photo, red, matrix, mask, feather)
    height, width = photo.shape[:2]
    centres = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2) + 0.5
    there = transform_points(centres.astype(np.float32), matrix).reshape(height, width, 2)
    distance = np.hypot(there[..., 0] - 128.5, there[..., 1] - 140.5)
    outside = distance > 71.5
    np.testing.assert_array_equal(result[outside], photo[outside])
    scale = np.sqrt(np.linalg.det(matrix[:, :2]))
    deep = distance < 69 - (feather + 1) * scale
    assert deep.sum() > 500
    assert (result[deep] == (255, 0, 0)).all()
    changed = (result != photo).any(axis=2)
    assert changed[distance < 60].mean() > 0.99


def test_an_unchanged_frame_leaves_the_photo_nearly_as_it_was(photos, five) -> None:
    photo = photos["astronaut"]
    matrix = align_to_vggface2(five, 512)
    result = paste_back(photo, warp(photo, matrix, 512), matrix)
    assert np.abs(result.astype(int) - photo).mean() < 1
    with pytest.raises(ValueError, match="must not be negative"):
        paste_back(photo, photo, matrix, feather=-1)
    with pytest.raises(ValueError, match="mask_SS must have shape"):
        paste_back(photo, photo, matrix, np.ones((3, 3), np.bool_))
