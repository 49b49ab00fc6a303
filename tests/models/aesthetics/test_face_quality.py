"""The quality score falls with every fault a photograph can have, and for the right reason."""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest

from models.aesthetics.face_quality import (
    SCORER_NAME,
    blocking_ratio,
    detail_ratio,
    face_quality,
    grey_entropy,
    noise_deviation,
)

COMPONENTS = (
    "sharpness",
    "noise",
    "compression",
    "exposure",
    "dynamic_range",
    "resolution",
    "pose",
)


def to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(cv2.GaussianBlur(image, (0, 0), sigma))


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(image + np.random.default_rng(0).normal(0, sigma, image.shape))


def gained(image: np.ndarray, gain: float) -> np.ndarray:
    return to_bytes(image.astype(np.float64) * gain)


def flattened(image: np.ndarray, contrast: float) -> np.ndarray:
    return to_bytes(128 + (image - 128.0) * contrast)


def compressed(image: np.ndarray, quality: float) -> np.ndarray:
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded.astype(np.uint8)


def shifted_and_compressed(image: np.ndarray, quality: float) -> np.ndarray:
    """As above, but with the block grid at (5, 3), as in a cropped photo."""
    inside = compressed(np.ascontiguousarray(image[3:, 5:]), quality)
    return np.pad(inside, ((3, 0), (5, 0), (0, 0)), mode="edge")


@pytest.mark.parametrize(
    ("fault", "severities", "component"),
    [
        (blurred, (1, 2, 3, 4, 6, 8), "sharpness"),
        (noisy, (4, 8, 12, 16, 24, 32, 48), "noise"),
        (gained, (1.5, 2, 2.5, 3, 4), "exposure"),
        (gained, (0.8, 0.6, 0.4, 0.3, 0.2, 0.1), "dynamic_range"),
        (flattened, (0.6, 0.4, 0.2, 0.1), "dynamic_range"),
        (compressed, (40, 30, 20, 10, 5), "compression"),
        (shifted_and_compressed, (40, 30, 20, 10, 5), "compression"),
    ],
)
def test_every_fault_lowers_the_score_step_by_step(
    portrait: Any, fault: Callable[[np.ndarray, float], np.ndarray], severities: tuple, component: str
) -> None:
    """Strictly, until the face is hopeless (0); and the component that names the fault falls too."""
    sound = portrait.quality()
    qualities = [sound, *(portrait.quality(fault(portrait.image, severity)) for severity in severities)]
    for better, worse in pairwise(qualities):
        assert worse.score < better.score or worse.score == better.score == 0
        assert getattr(worse, component) <= getattr(better, component)
    worst = qualities[-1]
    assert worst.score < 0.8 * sound.score
    assert getattr(worst, component) < 0.85 * getattr(sound, component)


def test_jpeg_10_costs_at_least_a_point(portrait: Any) -> None:
    assert portrait.quality(compressed(portrait.image, 10)).score < portrait.quality().score - 1


def test_good_photos_score_high_and_darkness_nothing(portrait: Any) -> None:
    quality = portrait.quality()
    assert 8 < quality.score <= 10
    for level in (0, 128, 255):
        assert portrait.quality(np.full_like(portrait.image, level)).score == 0


def test_score_is_the_documented_mean_of_components(portrait: Any) -> None:
    for image in (portrait.image, blurred(portrait.image, 3), noisy(portrait.image, 20)):
        q = portrait.quality(image)
        assert {field.name for field in fields(q)} == {"score", *COMPONENTS}
        assert all(0 <= getattr(q, name) <= 1 for name in COMPONENTS)
        clarity, light = q.sharpness * q.noise * q.compression, q.exposure * q.dynamic_range
        assert q.score == pytest.approx(10 * (clarity * light * q.resolution * q.pose) ** 0.25, rel=1e-6)


def test_smaller_photos_of_the_same_face_score_less(portrait: Any) -> None:
    scores, resolutions = [], []
    for scale in (1.0, 0.75, 0.5, 0.25, 0.15):
        image = cv2.resize(portrait.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        quality = face_quality(image.astype(np.uint8), portrait.points * np.float32(scale), portrait.pose)
        scores.append(quality.score)
        resolutions.append(quality.resolution)
    assert scores == sorted(scores, reverse=True)
    between_eyes = np.linalg.norm(portrait.points[468, :2] - portrait.points[473, :2])
    assert resolutions[0] == pytest.approx(1 - np.exp(-between_eyes / 40), abs=0.06)
    assert resolutions[-1] < 0.4


def test_pose_counts_yaw_and_pitch_but_not_roll(portrait: Any) -> None:
    def pose(yaw: float, pitch: float, roll: float) -> float:
        return replace(portrait, pose=(yaw, pitch, roll)).quality().pose

    assert pose(0, 0, 0) == pytest.approx(1)
    assert pose(0, 0, 40) == pytest.approx(1)
    assert pose(60, 0, 0) == pytest.approx(0.5)
    assert pose(-60, 60, 10) == pytest.approx(0.25)
    assert pose(120, 0, 0) == 0
    assert pose(120, 170, 0) == 0


def test_black_and_white_is_no_fault(portrait: Any) -> None:
    luma = to_bytes(portrait.image @ np.array([0.2126, 0.7152, 0.0722]))
    assert portrait.quality(np.repeat(luma[:, :, None], 3, axis=2)).score == pytest.approx(
        portrait.quality().score, abs=0.1
    )


def test_what_lies_outside_the_face_does_not_count(portrait: Any) -> None:
    left, top = np.floor(portrait.points[:, :2].min(axis=0)).astype(int) - 60
    right, bottom = np.ceil(portrait.points[:, :2].max(axis=0)).astype(int) + 60
    outside = np.ones(portrait.image.shape[:2], bool)
    outside[max(0, top) : bottom, max(0, left) : right] = False
    painted = portrait.image.copy()
    painted[outside] = (255, 0, 255)
    assert portrait.quality(painted).score == pytest.approx(portrait.quality().score, abs=0.02)


def test_a_face_cut_by_the_border_is_measured(portrait: Any) -> None:
    nose = portrait.points[1, :2].astype(int)
    half = np.ascontiguousarray(portrait.image[:, nose[0] :])
    points = portrait.points - np.array([nose[0], 0, 0], np.float32)
    quality = face_quality(half, points, portrait.pose)
    assert 0 <= quality.score <= 10
    assert quality.resolution == pytest.approx(portrait.quality().resolution)


@pytest.mark.parametrize("sigma", [3.0, 6.0, 12.0, 24.0])
def test_noise_estimate_is_the_deviation_put_in(sigma: float) -> None:
    shade = np.add.outer(np.linspace(60, 120, 200), np.linspace(0, 60, 200))
    luma = (shade + np.random.default_rng(1).normal(0, sigma, shade.shape)).astype(np.float32)
    assert noise_deviation(luma, np.ones_like(luma, bool)) == pytest.approx(sigma, rel=0.05)
    assert noise_deviation(shade.astype(np.float32), np.ones_like(luma, bool)) < 0.01


def test_blocking_sees_blocks_on_any_grid_and_none_in_noise() -> None:
    random = np.random.default_rng(2)
    grain = random.normal(128, 5, (160, 160)).astype(np.float32)
    blocks = np.kron(random.normal(0, 12, (21, 21)), np.ones((8, 8))).astype(np.float32)
    assert blocking_ratio(grain) < 1.1
    for offset in range(8):
        assert blocking_ratio(grain + blocks[offset : offset + 160, offset : offset + 160]) > 1.8
    assert blocking_ratio(grain[:15, :15]) == 1


def test_entropy_in_bits() -> None:
    ramp = np.arange(256, dtype=np.float32)
    assert grey_entropy(ramp) == pytest.approx(8)
    assert grey_entropy(ramp // 16) == pytest.approx(4)
    assert grey_entropy(np.full(100, 37, np.float32)) == 0


def test_sharpness_ignores_brightness_and_contrast(portraits: dict[str, Any]) -> None:
    luma = portraits["astronaut"].image.mean(axis=2).astype(np.float32)
    mask = np.zeros(luma.shape, bool)
    mask[60:180, 170:280] = True
    ratio = detail_ratio(luma, mask)
    assert detail_ratio(luma * 0.4 + 30, mask) == pytest.approx(ratio, rel=1e-3)
    assert detail_ratio(cv2.GaussianBlur(luma, (0, 0), 3).astype(np.float32), mask) < 0.7 * ratio
    assert detail_ratio(np.full_like(luma, 90), mask) < 1e-4


def test_wrong_input_is_named(portraits: dict[str, Any]) -> None:
    image, points, pose = (getattr(portraits["astronaut"], name) for name in ("image", "points", "pose"))
    with pytest.raises(ValueError, match="uint8 RGB"):
        face_quality(image[:, :, 0], points, pose)
    with pytest.raises(ValueError, match=r"\(478, 3\)"):
        face_quality(image, points[:468], pose)
    with pytest.raises(ValueError, match="pose holds a coordinate that is NaN"):
        face_quality(image, points, (0.0, float("nan"), 0.0))
    with pytest.raises(ValueError, match="no face can be measured"):
        face_quality(image, np.full_like(points, 100), pose)


def test_scorer_name_is_stored_beside_every_score() -> None:
    assert SCORER_NAME == "face_quality_v1"
