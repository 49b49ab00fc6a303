"""Occlusion augmentation: the same occluder on both pictures, nothing else touched, repeatable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.faces.condition import ConditionRecipe, iris_dots, landmark_dots
from models.faces.frame import FaceFrame, face_frame, frame_condition
from models.faces.occluders import body_of
from models.swap.codec import PatchCodec
from models.swap.config import tiny
from models.swap.data import StudentData, TeacherData
from models.swap.occlusion import (
    UNOCCLUDED,
    OccludedData,
    StudentPictures,
    TeacherPictures,
    face_occluder,
    occlude_frame,
)
from models.worlds import render, sample_attributes, sample_identities

PEOPLE, PHOTOS = 3, 3
RECIPE = ConditionRecipe(landmark_radius=0, iris_radius=0)


def frames_of(size: int) -> list[FaceFrame]:
    owner = np.repeat(np.arange(PEOPLE), PHOTOS)
    world = render(sample_identities(1, PEOPLE)[owner], sample_attributes(2, len(owner)), size=96)
    everything = np.ones((96, 96), np.bool_)
    parts = zip(world.images_NHWC, world.parsing_NHW, world.landmarks_68_N682, world.iris_N102, strict=True)
    return [face_frame(image, codes, everything, points, iris, size) for image, codes, points, iris in parts]


@pytest.fixture(scope="module")
def frames() -> list[FaceFrame]:
    return frames_of(32)


@pytest.fixture(scope="module")
def large_frames() -> list[FaceFrame]:
    return frames_of(96)


@pytest.fixture(scope="module")
def codec(frames: list[FaceFrame]) -> PatchCodec:
    codec = PatchCodec(tiny().codec)
    codec.fit(np.stack([frame.image for frame in frames]))
    return codec


def latents(codec: PatchCodec, images: list[np.ndarray]) -> np.ndarray:
    return codec.encode(np.stack(images)).numpy()


def teacher(codec: PatchCodec, frames: list[FaceFrame]) -> TeacherData:
    random = np.random.default_rng(0)
    return TeacherData(
        latents(codec, [frame.image for frame in frames]),
        latents(codec, [frame_condition(frame, RECIPE) for frame in frames]),
        random.normal(size=(len(frames), 4)),
        np.repeat(np.arange(PEOPLE), PHOTOS),
        reference_ND=random.normal(size=(len(frames), 6)),
        points_N52=random.normal(size=(len(frames), 5, 2)),
    )


def test_the_teachers_pictures_share_the_occluder(large_frames: list[FaceFrame]) -> None:
    """Outside of it the photo is untouched; inside, the condition shows it sharp, under the dots."""
    recipe = ConditionRecipe(landmark_radius=1, iris_radius=1)
    render_row = TeacherPictures(lambda row: large_frames[row], recipe)
    hidden = []
    for row, frame in enumerate(large_frames):
        pictures = render_row(row, np.random.default_rng(row))
        rgba = face_occluder(frame, np.random.default_rng(row))
        opacity, body = rgba[:, :, 3], body_of(rgba)
        np.testing.assert_array_equal(pictures.target[opacity == 0], frame.image[opacity == 0])
        size = frame.face_mask.shape
        dots = landmark_dots(frame.landmarks_68, size, 1) | iris_dots(frame.iris_10, size, 1)
        shown = body & ~dots
        np.testing.assert_array_equal(pictures.condition[shown], pictures.target[shown])
        assert (pictures.condition[dots & body] != pictures.target[dots & body]).any() or not (
            dots & body
        ).any()
        # where neither face nor occluder is, the condition is what it was
        outside = ~frame.face_mask & (opacity == 0)
        np.testing.assert_array_equal(pictures.condition[outside], frame_condition(frame, recipe)[outside])
        occluded = occlude_frame(frame, rgba)
        np.testing.assert_array_equal(occluded.face_mask, frame.face_mask & ~body)
        np.testing.assert_array_equal(occluded.landmarks_68, frame.landmarks_68)
        hidden.append((frame.face_mask & body).sum() / frame.face_mask.sum())
    assert 0.05 < np.mean(hidden) < 0.7


def test_the_students_pictures_share_the_occluder(large_frames: list[FaceFrame]) -> None:
    swapped = [frame.image for frame in large_frames[::-1]]
    render_row = StudentPictures(lambda row: large_frames[row], lambda row: swapped[row])
    for row, frame in enumerate(large_frames[:4]):
        pictures = render_row(row, np.random.default_rng(row))
        opacity = face_occluder(frame, np.random.default_rng(row))[:, :, 3]
        np.testing.assert_array_equal(pictures.target[opacity == 0], frame.image[opacity == 0])
        np.testing.assert_array_equal(pictures.condition[opacity == 0], swapped[row][opacity == 0])
        solid = opacity == 255
        assert solid.any()
        np.testing.assert_array_equal(pictures.condition[solid], pictures.target[solid])


def test_a_face_without_visible_pixels_is_occluded_at_its_landmarks(
    large_frames: list[FaceFrame],
) -> None:
    frame = large_frames[0]
    hidden = FaceFrame(
        frame.image, frame.face_mask & False, frame.glasses_mask & False, frame.landmarks_68, frame.iris_10
    )
    body = body_of(face_occluder(hidden, np.random.default_rng(1)))
    assert (body & frame.face_mask).any()


def test_occluded_rows_alone_change_and_everything_repeats(
    codec: PatchCodec, frames: list[FaceFrame]
) -> None:
    data, asked = teacher(codec, frames), []
    render_row = TeacherPictures(lambda row: frames[row], RECIPE)

    def recorded(row: int, rng: np.random.Generator):
        asked.append(row)
        return render_row(row, rng)

    occluded = OccludedData(data, 0.4, recorded, codec)
    choices = occluded.draw(np.random.default_rng(5), 24)
    plain = data.draw(np.random.default_rng(5), 24)
    np.testing.assert_array_equal(choices[:, :-1], plain)
    np.testing.assert_array_equal(choices, occluded.draw(np.random.default_rng(5), 24))
    hit = choices[:, -1] != UNOCCLUDED
    assert 4 <= hit.sum() <= 16
    batch, without = occluded.read(choices), data.read(plain)
    assert asked == choices[hit, 0].tolist()
    for name in ("identity_BD", "reference_BD", "points_B52"):
        assert torch.equal(getattr(batch, name), getattr(without, name))
    for name in ("target_latents_BLC", "condition_latents_BLC"):
        there, before = getattr(batch, name), getattr(without, name)
        assert torch.equal(there[~hit], before[~hit])
        assert ((there - before).flatten(1).abs().amax(dim=1) > 0.1).numpy()[hit].all()
    row = int(np.flatnonzero(hit)[0])
    pictures = render_row(int(choices[row, 0]), np.random.default_rng(choices[row, -1]))
    torch.testing.assert_close(batch.target_latents_BLC[row], codec.encode(pictures.target[None])[0])
    torch.testing.assert_close(batch.condition_latents_BLC[row], codec.encode(pictures.condition[None])[0])
    # a process that reads a part of the batch gets the very rows
    part = occluded.read(choices[6:18])
    torch.testing.assert_close(part.condition_latents_BLC, batch.condition_latents_BLC[6:18])


def test_without_probability_nothing_is_drawn_or_rendered(codec: PatchCodec, frames: list[FaceFrame]) -> None:
    def never(row: int, rng: np.random.Generator):
        raise AssertionError("rendered")

    data = teacher(codec, frames)
    off = OccludedData(data, 0.0, never, codec)
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    choices = off.draw(first, 8)
    np.testing.assert_array_equal(choices, data.draw(second, 8))
    assert first.random() == second.random()
    assert torch.equal(off.read(choices).target_latents_BLC, data.read(choices).target_latents_BLC)
    with pytest.raises(ValueError, match=r"probability 1.5 is outside 0\.\.1"):
        OccludedData(data, 1.5, never, codec)


def test_a_students_triplets_are_occluded_by_triplet(
    codec: PatchCodec, frames: list[FaceFrame], large_frames: list[FaceFrame]
) -> None:
    target = np.array([4, 0, 7])
    swapped = [frames[row].image[:, ::-1].copy() for row in target]
    data = StudentData(
        latents(codec, swapped),
        target,
        latents(codec, [frame.image for frame in frames]),
        np.random.default_rng(0).normal(size=(len(frames), 4)),
        np.repeat(np.arange(PEOPLE), PHOTOS),
    )

    def build(of: Callable[[int], FaceFrame]) -> OccludedData:
        return OccludedData(data, 1.0, StudentPictures(of, lambda row: swapped[row]), codec)

    occluded = build(lambda triplet: frames[target[triplet]])
    choices = occluded.draw(np.random.default_rng(3), 6)
    batch, without = occluded.read(choices), data.read(choices[:, :-1])
    render_row = StudentPictures(lambda triplet: frames[target[triplet]], lambda row: swapped[row])
    for place, (triplet, _, seed) in enumerate(choices):
        pictures = render_row(int(triplet), np.random.default_rng(seed))
        expected = codec.encode(np.stack([pictures.target, pictures.condition]))
        torch.testing.assert_close(batch.target_latents_BLC[place], expected[0])
        torch.testing.assert_close(batch.condition_latents_BLC[place], expected[1])
    apart = (batch.target_latents_BLC - batch.condition_latents_BLC).flatten(1).norm(dim=1)
    before = (without.target_latents_BLC - without.condition_latents_BLC).flatten(1).norm(dim=1)
    assert (apart < before).all()
    with pytest.raises(ValueError, match=r"a picture \(32, 32, 3\)|of 96 px give latents"):
        build(lambda triplet: large_frames[target[triplet]]).read(choices)
