"""The classical swap on rendered faces, where landmarks, masks and the exact answer are known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from models.baselines.mesh_warp import MeshFace, forehead_of_mesh, mesh_warp_swap
from models.baselines.triangulation import DegenerateGeometry, triangulate, warp_by_points
from models.faces.condition import condition_masks
from models.metrics import exact
from models.worlds.parameters import Attributes, Identities
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import RenderedFaces, render

SIZE, PAIRS, SEED = 128, 4, 77


def face_of(rendered: RenderedFaces, row: int) -> MeshFace:
    parsing = rendered.parsing_NHW[row]
    mask = condition_masks(parsing, np.ones(parsing.shape, bool))[0]
    return MeshFace(rendered.images_NHWC[row], rendered.landmarks_68_N682[row], mask)


@pytest.fixture(scope="module")
def world() -> tuple[RenderedFaces, RenderedFaces, RenderedFaces]:
    """Sources, targets and truths."""
    people = sample_identities(SEED, 2 * PAIRS).values
    settings = sample_attributes(SEED, 2 * PAIRS).values
    source, target = Identities(people[:PAIRS]), Attributes(settings[PAIRS:])
    return (
        render(source, Attributes(settings[:PAIRS]), SIZE, workers=1),
        render(Identities(people[PAIRS:]), target, SIZE, workers=1),
        render(source, target, SIZE, workers=1),
    )


@pytest.fixture(scope="module")
def swaps(world) -> np.ndarray:
    sources, targets, _ = world
    return np.stack([mesh_warp_swap(face_of(sources, row), face_of(targets, row)) for row in range(PAIRS)])


def test_nothing_outside_the_targets_face_changes(world, swaps):
    for row, swapped in enumerate(swaps):
        target = face_of(world[1], row)
        assert swapped.shape == target.image.shape
        assert swapped.dtype == np.uint8
        assert (swapped[~target.face_mask] == target.image[~target.face_mask]).all()
        assert (swapped[target.face_mask] != target.image[target.face_mask]).any(axis=1).mean() > 0.5


def test_swaps_go_from_the_target_towards_the_truth(world, swaps):
    _, targets, truths = world
    progress = exact.swap_progress(swaps, targets.images_NHWC, truths.images_NHWC)
    copied = exact.swap_progress(targets.images_NHWC, targets.images_NHWC, truths.images_NHWC)
    assert (copied == 0).all()
    assert progress.mean() > 0.08
    assert (progress > 0).sum() >= PAIRS - 1
    # the target's light comes along: the source's photograph, warped and not relit, is further from it
    lit, bare = [], []
    for row, swapped in enumerate(swaps):
        source, target = face_of(world[0], row), face_of(targets, row)
        size = target.face_mask.shape
        warped = warp_by_points(source.image, source.landmarks_68, target.landmarks_68, size)
        where = (warped.covered & target.face_mask)[..., None]
        pasted = np.where(where, warped.image, target.image)
        for picture, found in ((swapped, lit), (pasted, bare)):
            found.append(exact.light_error(picture[None], truths.images_NHWC[row][None])[0])
    assert np.mean(lit) < 0.75 * np.mean(bare)


def test_the_warp_brings_landmarks_of_another_pose_onto_the_targets(world):
    """A dot is painted at one landmark of a black picture, and found again where the target has it."""
    people = sample_identities(SEED, 1).values.repeat(2, axis=0)
    turned = sample_attributes(SEED + 1, 2)
    both = render(Identities(people), turned, SIZE, workers=1)
    source, target = both.landmarks_68_N682
    assert np.linalg.norm(source - target, axis=1).mean() > 4  # another pose indeed
    inner = (30, 33, 39, 42, 48, 54, 62)
    for point in inner:
        dots = np.zeros((SIZE, SIZE, 3), np.uint8)
        centre = tuple(round(16 * float(value - 0.5)) for value in source[point])
        cv2.circle(dots, centre, 2 * 16, (255, 255, 255), cv2.FILLED, cv2.LINE_AA, 4)
        warped = warp_by_points(dots, source, target, (SIZE, SIZE)).image[..., 0].astype(float)
        rows, columns = np.indices(warped.shape) + 0.5
        found = np.array([(columns * warped).sum(), (rows * warped).sum()]) / warped.sum()
        assert np.linalg.norm(found - target[point]) < 1.5, point


def test_a_warp_onto_itself_is_the_picture():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    points = np.array([[2, 2], [47, 3], [46, 37], [4, 36], [25, 20]], np.float32)
    warped = warp_by_points(picture, points, points, (40, 50))
    assert warped.covered.mean() > 0.7
    assert np.abs(warped.image[warped.covered].astype(int) - picture[warped.covered]).max() <= 1


def test_triangles_are_delaunay():
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 100, (30, 2)).astype(np.float32)
    for three in triangulate(points):
        a, b, c = points[three].astype(np.float64)
        matrix = 2 * np.stack([b - a, c - a])
        centre = np.linalg.solve(matrix, [b @ b - a @ a, c @ c - a @ a])
        others = np.delete(points, three, axis=0)
        assert np.linalg.norm(others - centre, axis=1).min() >= np.linalg.norm(a - centre) - 1e-2


def test_pictures_may_differ_in_size_and_faces_may_touch_the_edge(world):
    sources, targets, _ = world
    target = face_of(targets, 0)
    large = cv2.resize(sources.images_NHWC[0], (3 * SIZE, 3 * SIZE), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(face_of(sources, 0).face_mask.astype(np.uint8), (3 * SIZE, 3 * SIZE)) > 0
    tripled = MeshFace(large, sources.landmarks_68_N682[0] * 3, mask)
    swapped = mesh_warp_swap(tripled, target)
    same = mesh_warp_swap(face_of(sources, 0), target)
    assert np.abs(swapped.astype(int) - same)[target.face_mask].mean() < 6
    # half of the face lies outside the cropped picture
    x = int(target.landmarks_68[30, 0])
    cropped = MeshFace(
        np.ascontiguousarray(target.image[:, x:]),
        target.landmarks_68 - np.array([x, 0], np.float32),
        np.ascontiguousarray(target.face_mask[:, x:]),
    )
    half = mesh_warp_swap(face_of(sources, 0), cropped)
    assert half.shape == cropped.image.shape
    assert (half[~cropped.face_mask] == cropped.image[~cropped.face_mask]).all()
    assert (half[cropped.face_mask] != cropped.image[cropped.face_mask]).any(axis=1).mean() > 0.5


def test_what_the_source_hides_stays_the_targets(world):
    sources, targets, _ = world
    source, target = face_of(sources, 0), face_of(targets, 0)
    upper = source.face_mask.copy()
    upper[int(source.landmarks_68[33, 1]) :] = False
    swapped = mesh_warp_swap(replace(source, face_mask=upper), target)
    below = target.face_mask.copy()
    below[: int(target.landmarks_68[57, 1])] = False
    assert below.sum() > 50
    assert (swapped[below] == target.image[below]).all()


def test_the_meshs_hairline_is_used_where_both_have_it(world):
    sources, targets, _ = world
    low = {
        name: replace(face, forehead=face.landmarks_68[[18, 19, 27, 24, 25]])
        for name, face in (("source", face_of(sources, 0)), ("target", face_of(targets, 0)))
    }
    # with a hairline at the brows, the forehead above them stays the target's
    target = low["target"]
    above = target.face_mask.copy()
    above[int(target.landmarks_68[17:27, 1].min()) - 1 :] = False
    assert (mesh_warp_swap(low["source"], target)[above] == target.image[above]).all()
    assert (mesh_warp_swap(face_of(sources, 0), target)[above] != target.image[above]).any()
    mesh = np.arange(478 * 3, dtype=np.float32).reshape(478, 3)
    assert forehead_of_mesh(mesh).tolist() == [[3 * i, 3 * i + 1] for i in (67, 109, 10, 338, 297)]


def test_degenerate_faces_are_refused_by_name(world):
    source, target = face_of(world[0], 0), face_of(world[1], 0)
    line = np.stack([np.linspace(5, 90, 68), np.linspace(5, 90, 68)], axis=1).astype(np.float32)
    point = np.full((68, 2), 40, np.float32)
    for name, faces in (
        ("source", (replace(source, landmarks_68=point), target)),
        ("target", (source, replace(target, landmarks_68=point))),
    ):
        with pytest.raises(DegenerateGeometry, match=name):
            mesh_warp_swap(*faces)
    with pytest.raises(DegenerateGeometry, match="line"):
        triangulate(line)
    with pytest.raises(DegenerateGeometry, match="no area"):
        warp_by_points(source.image, line, target.landmarks_68, (SIZE, SIZE))
    with pytest.raises(DegenerateGeometry, match="mask"):
        mesh_warp_swap(source, replace(target, face_mask=np.zeros_like(target.face_mask)))
    with pytest.raises(ValueError, match="NaN"):
        mesh_warp_swap(source, replace(target, landmarks_68=target.landmarks_68 * np.nan))
