"""Procedural occluders: the same thing at every size, smooth edges, shadows that hide nothing."""

import cv2
import numpy as np
import pytest

from models.faces.occluders import (
    BODY_OPACITY,
    OCCLUDER_KINDS,
    STRONGEST_SHADOW,
    OccluderKind,
    Placement,
    body_of,
    draw_occluder,
    paste,
)

PLACE = Placement(0.45, 0.55, 0.35, 0.4)


def drawn(seed: int, size: int, kind: OccluderKind | None = None, place: Placement = PLACE) -> np.ndarray:
    return draw_occluder(np.random.default_rng(seed), size, place, kind)


@pytest.mark.parametrize("kind", OCCLUDER_KINDS)
def test_a_thing_is_the_same_at_every_size(kind: OccluderKind) -> None:
    large, small = drawn(3, 256, kind), drawn(3, 64, kind)
    assert small.shape == (64, 64, 4)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, drawn(3, 64, kind))
    assert not np.array_equal(small, drawn(4, 64, kind))

    def on_grey(rgba: np.ndarray) -> np.ndarray:
        return paste(np.full((*rgba.shape[:2], 3), 128, np.uint8), rgba)

    shrunk = cv2.resize(on_grey(large), (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    difference = np.abs(shrunk - on_grey(small)).mean(axis=2)
    assert difference.mean() < 4
    assert np.quantile(difference, 0.95) < 25  # fine texture and edges


@pytest.mark.parametrize("kind", OCCLUDER_KINDS)
def test_a_thing_hides_its_middle_and_leaves_the_rest(kind: OccluderKind) -> None:
    hidden = np.mean([body_of(drawn(seed, 96, kind)).mean() for seed in range(6)])
    assert 0.03 < hidden < 0.5
    for seed in range(6):
        rgba = drawn(seed, 96, kind)
        body, opacity = body_of(rgba), rgba[:, :, 3]
        # a cup hangs from its rim, everything else lies around its middle
        rows, columns = np.nonzero(body)
        nearest = np.hypot(rows - 0.55 * 96, columns - 0.45 * 96).min()
        assert nearest < 3
        assert (opacity[body] == 255).mean() > 0.75
        assert (opacity[~body] > 0).any()  # its shadow
        far_from_body = cv2.distanceTransform((~body).astype(np.uint8), cv2.DIST_L2, 5) > 2
        assert opacity[far_from_body].max() <= 255 * STRONGEST_SHADOW + 1 < BODY_OPACITY


def test_kinds_differ_and_all_are_drawn() -> None:
    things = [drawn(5, 48, kind) for kind in OCCLUDER_KINDS]
    unnamed = [drawn(seed, 48) for seed in range(22)]
    found = {
        kind
        for seed, thing in enumerate(unnamed)
        for kind in OCCLUDER_KINDS
        if np.array_equal(thing, drawn(seed, 48, kind))
    }
    assert found == set(OCCLUDER_KINDS)
    assert len({thing.tobytes() for thing in things}) == len(OCCLUDER_KINDS)


def test_placement_moves_turns_and_scales() -> None:
    def middle(place: Placement) -> np.ndarray:
        return np.argwhere(body_of(drawn(1, 128, "cloth", place))).mean(axis=0)

    upper, lower = (middle(Placement(0.3, y, 0.2, 0)) for y in (0.3, 0.6))
    np.testing.assert_allclose(lower - upper, (0.3 * 128, 0), atol=1)
    narrow, wide = (body_of(drawn(1, 128, "cloth", Placement(0.5, 0.5, e, 0))).sum() for e in (0.2, 0.4))
    assert wide / narrow == pytest.approx(4, rel=0.05)
    # the handle of a microphone points to its far end: down, and to the left after a quarter turn
    down, left = (
        body_of(drawn(1, 128, "microphone", Placement(0.5, 0.5, 0.15, turn))) for turn in (0, np.pi / 2)
    )
    assert down[100:, 60:68].any()
    assert not down[:20].any()
    assert left[60:68, :28].any()
    assert not left[:, 100:].any()


def test_pasting_keeps_what_is_outside_to_the_bit() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    rgba = drawn(2, 96, "hand")
    before = picture.copy()
    pasted = paste(picture, rgba)
    np.testing.assert_array_equal(picture, before)
    opacity = rgba[:, :, 3]
    np.testing.assert_array_equal(pasted[opacity == 0], picture[opacity == 0])
    np.testing.assert_array_equal(pasted[opacity == 255], rgba[:, :, :3][opacity == 255])
    shadow = (opacity > 10) & (opacity < 100) & ~body_of(rgba)
    assert (pasted[shadow].astype(int) <= picture[shadow].astype(int) + rgba[:, :, :3][shadow]).all()
    assert pasted[shadow].mean() < picture[shadow].mean()
    with pytest.raises(ValueError, match=r"an occluder \(96, 96, 4\) does not fit a picture \(64, 64, 3\)"):
        paste(picture[:64, :64], rgba)
