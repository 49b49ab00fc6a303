"""Embeddings tell people apart, whatever the crop, tilt or light of the photograph."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.faces.alignment import align_to_dlib
from models.identity.embedding import (
    EMBEDDING_SIZE,
    SAME_PERSON_DISTANCE,
    IdentityEmbedder,
    distance_matrix,
    five_points,
    five_points_from_68,
    same_person,
)
from models.worlds import render, sample_attributes, sample_identities

Photo = tuple[np.ndarray, np.ndarray]


def moved(image: np.ndarray, points_52: np.ndarray, degrees: float, scale: float) -> Photo:
    """The photo turned about the face and resized, and its points."""
    centre = points_52.mean(axis=0)
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), degrees, scale)
    size = (image.shape[1], image.shape[0])
    points = points_52 @ matrix[:, :2].T + matrix[:, 2]
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_AREA), points.astype(np.float32)


def mirrored(image: np.ndarray, points_52: np.ndarray) -> Photo:
    points = points_52[[2, 3, 0, 1, 4]] * (-1, 1) + (image.shape[1], 0)
    return np.ascontiguousarray(image[:, ::-1]), points.astype(np.float32)


def relit(image: np.ndarray, gain: float, gamma: float) -> np.ndarray:
    return (np.clip((image / 255.0) ** gamma * gain, 0, 1) * 255).round().astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    decoded = cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
    )
    assert decoded is not None
    return decoded.astype(np.uint8)


def views(image: np.ndarray, points: np.ndarray) -> list[Photo]:
    """One photograph as taken, and in seven other ways."""
    return [
        (image, points),
        moved(image, points, 25, 0.8),
        moved(image, points, -40, 1.2),
        mirrored(image, points),
        (relit(image, 0.6, 1.0), points),
        (relit(image, 1.0, 0.6), points),
        (jpeg(image, 30), points),
        (cv2.GaussianBlur(image, (0, 0), 1.5), points),
    ]


@pytest.fixture(scope="module")
def people(
    embedder: IdentityEmbedder, photos: dict[str, np.ndarray], meshes: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Eight embeddings of each of the two people."""
    embedded = {}
    for name, image in photos.items():
        images, points = zip(*views(image, five_points(meshes[name])), strict=True)
        embedded[name] = embedder.embed(images, points)
    return embedded


def test_views_of_one_person_are_near_and_two_people_far(people: dict[str, np.ndarray]) -> None:
    first, second = people["astronaut"], people["hopper"]
    assert first.shape == (8, EMBEDDING_SIZE)
    assert first.dtype == np.float32
    assert same_person(first, first).all()
    assert same_person(second, second).all()
    assert not same_person(first, second).any()
    widest_same = max(distance_matrix(first, first).max(), distance_matrix(second, second).max())
    assert distance_matrix(first, second).min() > widest_same + 0.1


def test_turning_and_resizing_the_photo_hardly_matters(people: dict[str, np.ndarray]) -> None:
    """Alignment undoes a similarity: only resampling is left, far below the decision threshold."""
    for embeddings in people.values():
        assert distance_matrix(embeddings[:1], embeddings[1:3]).max() < SAME_PERSON_DISTANCE / 3


def test_chip_holds_the_points_where_dlib_wants_them(
    embedder: IdentityEmbedder, photos: dict[str, np.ndarray], meshes: dict[str, np.ndarray]
) -> None:
    """White marks painted on the photo's five points appear in the chip within 7 px of dlib's template.

    7 px is the shape difference between one person and the mean face that no similarity removes.
    """
    template = (
        np.array([[0.8596, 0.2135], [0.6461, 0.2290], [0.1206, 0.2137], [0.3341, 0.2291], [0.4901, 0.6278]])
        + 0.25
    ) * 100
    for name, image in photos.items():
        points = five_points(meshes[name])
        for index, point in enumerate(points):
            marked = np.zeros_like(image)
            cv2.circle(marked, (int(point[0]), int(point[1])), 4, (255, 255, 255), -1)
            chip = embedder.chips([marked], [points])[0, :, :, 0].astype(np.float64)
            rows, columns = np.mgrid[:150, :150] + 0.5
            seen = np.array([(chip * columns).sum(), (chip * rows).sum()]) / chip.sum()
            np.testing.assert_allclose(seen, template[index], atol=7)
            matrix = align_to_dlib(points)
            np.testing.assert_allclose(seen, matrix[:, :2] @ point + matrix[:, 2], atol=0.7)


def test_procedural_people_are_told_apart_from_exact_landmarks(embedder: IdentityEmbedder) -> None:
    """On the procedural world the embedding separates people well above chance (chance is 0.5)."""
    count, photos_each = 12, 3
    owner = np.repeat(np.arange(count), photos_each)
    faces = render(sample_identities(1, count)[owner], sample_attributes(2, len(owner)), size=128)
    points = [five_points_from_68(landmarks) for landmarks in faces.landmarks_68_N682]
    distances = distance_matrix(*[embedder.embed(list(faces.images_NHWC), points)] * 2)
    same = owner[:, None] == owner[None]
    near, far = distances[same & ~np.eye(len(owner), dtype=bool)], distances[~same]
    assert (near[:, None] < far[None]).mean() > 0.75


def test_mesh_and_68_landmarks_give_the_same_five_points(meshes: dict[str, np.ndarray]) -> None:
    from models.faces.landmarks import landmarks_68_from_mesh

    for mesh in meshes.values():
        landmarks = landmarks_68_from_mesh(mesh)
        width = np.linalg.norm(mesh[33, :2] - mesh[263, :2])
        apart = np.linalg.norm(five_points(mesh) - five_points_from_68(landmarks), axis=1)
        assert apart.max() < 0.1 * width
        assert five_points_from_68(landmarks[:, :2]).shape == (5, 2)


def test_order_of_the_five_points(meshes: dict[str, np.ndarray]) -> None:
    """The subject's left eye (picture's right) comes first, outer corner before inner; the nose is last."""
    for mesh in meshes.values():
        (left_outer, left_inner, right_outer, right_inner, nose) = five_points(mesh)
        assert left_outer[0] > left_inner[0] > nose[0] > right_inner[0] > right_outer[0]
        assert nose[1] > max(left_inner[1], right_inner[1])
        assert five_points(mesh).dtype == np.float32


def test_gradient_reaches_the_chip(
    embedder: IdentityEmbedder, photos: dict[str, np.ndarray], meshes: dict[str, np.ndarray]
) -> None:
    """Descending the distance moves one face's embedding towards another's, as identity guidance needs."""
    chips = [embedder.chips([photos[name]], [five_points(meshes[name])]) for name in ("hopper", "astronaut")]
    start, goal = (torch.from_numpy(chip).permute(0, 3, 1, 2).float() for chip in chips)
    goal_embedding = embedder.encode(goal)
    x = start.clone().requires_grad_(True)
    before = torch.linalg.vector_norm(embedder.encode(x) - goal_embedding)
    before.backward()
    gradient = x.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    step = 0.5
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (
            torch.linalg.vector_norm(embedder.encode(start + sign * step * direction) - goal_embedding)
            for sign in (1, -1)
        )
    assert ((ahead - behind) / (2 * step)).item() == pytest.approx(gradient.norm().item(), rel=0.05)
    assert behind < before


def test_distances_equal_the_definition() -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(size=(5, 7)).astype(np.float32), random.normal(size=(4, 7))
    expected = [[np.sqrt(((a - b) ** 2).sum()) for b in second] for a in first]
    np.testing.assert_allclose(distance_matrix(first, second), expected, rtol=1e-6)
    assert np.diag(distance_matrix(first, first)).max() < 1e-6
    with pytest.raises(ValueError, match=r"\(5, 7\) and \(4, 6\)"):
        distance_matrix(first, second[:, :6])


def test_no_photos_give_no_rows(embedder: IdentityEmbedder) -> None:
    assert embedder.embed([], []).shape == (0, EMBEDDING_SIZE)


def test_more_photos_than_a_batch_stay_in_order(
    embedder: IdentityEmbedder, photos: dict[str, np.ndarray], meshes: dict[str, np.ndarray]
) -> None:
    names = ["hopper", *["astronaut"] * 32, "hopper"]
    points = {name: five_points(mesh) for name, mesh in meshes.items()}
    embeddings = embedder.embed([photos[name] for name in names], [points[name] for name in names])
    near = distance_matrix(embeddings, embeddings[[0, 1]]).argmin(axis=1)
    assert near.tolist() == [0, *[1] * 32, 0]
    assert distance_matrix(embeddings[:1], embeddings[-1:]).item() < 1e-4


def test_wrong_input_is_named(embedder: IdentityEmbedder, photos: dict[str, np.ndarray]) -> None:
    image, points = photos["astronaut"], np.arange(10, dtype=np.float32).reshape(5, 2)
    with pytest.raises(ValueError, match="2 images but 1 sets"):
        embedder.embed([image, image], [points])
    with pytest.raises(ValueError, match="uint8 RGB"):
        embedder.embed([image[:, :, 0]], [points])
    with pytest.raises(ValueError, match=r"must have shape \(5, 2\)"):
        embedder.embed([image], [points[:4]])
    with pytest.raises(ValueError, match="NaN"):
        embedder.embed([image], [np.full((5, 2), np.nan, np.float32)])
    with pytest.raises(ValueError, match=r"landmarks_68 must have shape \(68, 2\)"):
        five_points_from_68(np.zeros((67, 2), np.float32))


def test_importing_the_module_does_not_import_torch() -> None:
    root = Path(__file__).parents[3]
    code = "import sys, models.identity.embedding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_name_says_which_network(embedder: IdentityEmbedder) -> None:
    assert embedder.name == "dlib_face_recognition_resnet_v1"
