"""Following faces: crossings, gaps, blur, newcomers, and stopping in between."""

from __future__ import annotations

import numpy as np
import pytest

from models.faces.tracking import FORGOTTEN_FRAMES, Track, follow

SIZE = 40.0
ANNA, BEN, CARL = np.eye(3, 128, dtype=np.float32) * 0.7
"""Embeddings at a distance of 0.99 from each other."""


def box(x: float) -> list[float]:
    return [x, 10.0, x + SIZE, 10.0 + SIZE]


def run(frames: list[list[tuple[float, np.ndarray]]], tracks: tuple[Track, ...] = (), start: int = 0):
    """Numbers of every frame's faces; a face is where it is and its embedding."""
    told = []
    for index, faces in enumerate(frames, start=start):
        boxes_N4 = np.array([box(x) for x, _ in faces], np.float32).reshape(-1, 4)
        embeddings = np.array([who for _, who in faces], np.float32).reshape(-1, 128)
        tracks, numbers = follow(tracks, index, boxes_N4, embeddings)
        told.append(numbers)
    return told, tracks


def noisy(who: np.ndarray, seed: int, length: float = 0.3) -> np.ndarray:
    """Another photograph of the same person, at that distance."""
    step = np.random.default_rng(seed).normal(size=128)
    return (who + length * step / np.linalg.norm(step)).astype(np.float32)


def crossing() -> list[list[tuple[float, np.ndarray]]]:
    """Anna goes right, Ben left; in the middle only Anna is seen, then they stand where the other stood."""
    frames = []
    for step in range(21):
        anna, ben = (10.0 * step, noisy(ANNA, step)), (200 - 10.0 * step, noisy(BEN, 50 + step))
        frames.append([anna] if 8 <= step <= 12 else sorted([anna, ben], key=lambda face: face[0]))
    return frames


def test_two_who_cross_are_not_exchanged() -> None:
    told, _ = run(crossing())
    assert told[:8] == [[0, 1]] * 8
    assert told[8:13] == [[0]] * 5
    assert told[13:] == [[1, 0]] * 8


def test_two_who_turn_back_in_the_middle_are_not_exchanged_either() -> None:
    """Motion would have them cross; likeness says that they did not."""
    frames = [
        [
            (10.0 * min(step, 20 - step), noisy(ANNA, step)),
            (200 - 10.0 * min(step, 20 - step), noisy(BEN, step)),
        ]
        for step in range(21)
    ]
    assert run(frames)[0] == [[0, 1]] * 21


def test_whoever_was_away_is_known_again_and_a_stranger_in_the_place_is_not() -> None:
    frames = [[(0.0, ANNA)], [], [(0.0, BEN)], *[[]] * 40, [(300.0, noisy(ANNA, 1, 0.5))]]
    told, _ = run(frames)
    assert (told[0], told[2], told[-1]) == ([0], [1], [0])


def test_a_blurred_face_is_the_same_only_in_its_place() -> None:
    blurred = noisy(ANNA, 3, 0.66)
    assert run([[(0.0, ANNA)], [(4.0, blurred)]])[0] == [[0], [0]]
    assert run([[(0.0, ANNA)], [(90.0, blurred)]])[0] == [[0], [1]]
    assert run([[(0.0, ANNA)], [], [], [], [], [], [(4.0, blurred)]])[0][-1] == [1]
    # and it does not change what is known of her
    _, tracks = run([[(0.0, ANNA)], [(4.0, blurred)]])
    np.testing.assert_allclose(tracks[0].reference, ANNA)


def test_newcomers_get_numbers_from_left_to_right_and_old_ones_go() -> None:
    told, tracks = run([[(0.0, ANNA), (90.0, BEN)], [(0.0, ANNA), (50.0, CARL), (90.0, BEN)]])
    assert told == [[0, 1], [0, 2, 1]]
    late = FORGOTTEN_FRAMES + 2
    nobody = np.empty((0, 4)), np.empty((0, 128))
    assert [track.number for track in follow(tracks, late, *nobody, wanted=[1])[0]] == [1]


def test_stopping_in_between_changes_nothing() -> None:
    whole, end = run(crossing())
    first, tracks = run(crossing()[:10])
    again = tuple(Track.model_validate_json(track.model_dump_json()) for track in tracks)
    second, end_again = run(crossing()[10:], again, start=10)
    assert first + second == whole
    assert end_again == end


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="1 boxes need as many embeddings"):
        follow((), 0, np.zeros((1, 4)), np.zeros((2, 128)))
