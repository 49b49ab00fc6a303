"""Exact metrics of swaps whose truth can be rendered: one number per swap and metric.

Pictures are (N, H, W, 3) RGB, uint8 in [0, 255] or floating point in [0, 1]; regions are weights, uint8
(N, H, W), 255 wholly inside. Every function gives float64 (N,). Differences of colour are in levels of
[0, 255], averaged over red, green and blue; 0 is a perfect match. NaN says that a photograph does not show
what is measured (no glasses, no make-up, closed eyes); means are over the other rows.

Read `face_psnr` beside its value for copies of the target: truth and target share all but the face.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.metrics.exact import decibels, psnr, unit_images
from models.metrics.exact_mesh import MeshTruth, mesh_errors
from models.metrics.exact_truth import ExactTruth, benchmark_truth, exact_truth
from models.worlds.landmarks import LEFT_EYE_POINTS, RIGHT_EYE_POINTS

Values = NDArray[np.float64]
Images = NDArray[np.float64]

HIGHER_IS_BETTER: Final = ("face_psnr", "psnr", "rank_1_of_20")
"""Metrics where more is better; of all others less is better."""

LIGHT_CELLS: Final = 8
_LEAST_CELL: Final = 0.1
_LEAST_SHARE: Final = 2e-4
"""Share of the picture below which a region counts as not seen: 13 pixels at 256 px."""


_LUMINANCE: Final = np.array([0.299, 0.587, 0.114])
_HALF_INSIDE: Final = 128
_LEAST_EYE_PIXELS: Final = 3

_BATCH: Final = 16


def exact_scores(
    outputs_NHWC: ArrayLike, bench: ExactTruth, meshes: MeshTruth | None = None
) -> dict[str, Values]:
    """All exact metrics of N swaps, in the order in which tables show them.

    Args:
        outputs_NHWC: the swapped pictures, row by row those of `bench`, of its size.
        bench: what they are measured against (`exact_truth`, `benchmark_truth`).
        meshes: the face mesh fitted on the truths (`mesh_truth`). With it there are `pose_error` and
            `expression_error` too; they need MediaPipe.

    Returns:
        float64 (N,) by name: `face_psnr` and `psnr` (dB), `rank_1_of_20` and `leak` (0 or 1), `light_error`,
        `lip_error`, `makeup_error`, `glasses_error`, `background_error` (levels of 255), `gaze_error` (per
        cent of the eye's width), and with `meshes` `pose_error` (degrees) and `expression_error` (shares of
        the distance between the eyes).

    Raises:
        ValueError: another number of pictures, another size, or values out of range.
    """
    outputs = np.asarray(outputs_NHWC)
    if outputs.shape != bench.truth_NHWC.shape:
        raise ValueError(
            f"outputs must have the truths' shape {bench.truth_NHWC.shape}, got {outputs.shape}: "
            "resize them first"
        )
    parts = [
        _batch_scores(outputs[first : first + _BATCH], bench, slice(first, first + _BATCH))
        for first in range(0, len(outputs), _BATCH)
    ]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    if meshes is not None:
        scores |= mesh_errors(outputs, bench, meshes)
    return scores


def _batch_scores(output_NHWC: NDArray[np.generic], bench: ExactTruth, rows: slice) -> dict[str, Values]:
    output, truth, target = unit_images(output_NHWC, bench.truth_NHWC[rows], bench.target_NHWC[rows])
    face = bench.face_NHW[rows]
    choices = bench.candidates_NKHWC.shape[1]
    return {
        "face_psnr": face_psnr(output, truth, face),
        "psnr": psnr(output, truth),
        f"rank_1_of_{choices}": render_rank(
            output, bench.candidates_NKHWC[rows], bench.retrieval_weights_NHW[rows]
        ),
        "leak": leak(output, truth, target, face),
        "light_error": light_error(output, truth, face),
        "lip_error": lip_error(output, truth, bench.lips_NHW[rows]),
        "makeup_error": makeup_error(output, truth, bench.eye_shadow_NHW[rows], bench.blush_NHW[rows]),
        "glasses_error": glasses_error(output, truth, bench.glasses_NHW[rows]),
        "gaze_error": gaze_error(output, truth, bench.eyes_NHW[rows], bench.landmarks_68_N682[rows]),
        "background_error": background_error(output, truth, face),
    }


def face_psnr(output_NHWC: Images, truth_NHWC: Images, face_NHW: NDArray[np.uint8]) -> Values:
    """Peak signal-to-noise ratio inside the face, dB, at most 100; the face is that of truth or target."""
    squared = ((output_NHWC - truth_NHWC) ** 2).mean(axis=3)
    return decibels(_mean_inside(squared, face_NHW))


def render_rank(
    output_NHWC: Images, candidates_NKHWC: NDArray[np.uint8], weights_NHW: NDArray[np.uint8]
) -> Values:
    """1 where the source is the nearest of K people rendered with the target's attributes, else 0.

    Nearness is the mean squared error inside the face at the candidates' size, to which the output is
    averaged down. Candidate 0 is the source. Chance is 1 / K; a tie with anybody is a miss.
    """
    size = candidates_NKHWC.shape[2]
    small = np.stack([cv2.resize(row, (size, size), interpolation=cv2.INTER_AREA) for row in output_NHWC])
    distances = np.stack(
        [
            _mean_inside(((small - candidates_NKHWC[:, choice] / 255.0) ** 2).mean(axis=3), weights_NHW)
            for choice in range(candidates_NKHWC.shape[1])
        ],
        axis=1,
    )
    nearest_rival = distances[:, 1:].min(axis=1)
    return np.asarray(distances[:, 0] < nearest_rival, np.float64)


def leak(output_NHWC: Images, truth_NHWC: Images, target_NHWC: Images, face_NHW: NDArray[np.uint8]) -> Values:
    """1 where the face is nearer to the target's own photograph than to the truth, else 0; a tie leaks."""
    to_truth = _mean_inside(((output_NHWC - truth_NHWC) ** 2).mean(axis=3), face_NHW)
    to_target = _mean_inside(((output_NHWC - target_NHWC) ** 2).mean(axis=3), face_NHW)
    return np.asarray(to_target <= to_truth, np.float64)


def light_error(output_NHWC: Images, truth_NHWC: Images, face_NHW: NDArray[np.uint8]) -> Values:
    """Difference of light and shade on the face, levels of 255.

    The signed difference is averaged over the face's part of each of 8 x 8 cells, where features cancel and
    light remains; then its size is averaged over the cells, each by its share of face.
    """
    errors = np.empty(len(output_NHWC))
    cells = (LIGHT_CELLS, LIGHT_CELLS)
    for row, (difference, region) in enumerate(zip(output_NHWC - truth_NHWC, face_NHW, strict=True)):
        weights = region / 255.0
        shares = cv2.resize(weights, cells, interpolation=cv2.INTER_AREA)
        sums = cv2.resize(difference * weights[..., None], cells, interpolation=cv2.INTER_AREA)
        used = shares > _LEAST_CELL
        means = np.abs(sums[used] / shares[used][:, None]).mean(axis=1)
        errors[row] = 255.0 * np.average(means, weights=shares[used]) if used.any() else np.nan
    return errors


def lip_error(output_NHWC: Images, truth_NHWC: Images, lips_NHW: NDArray[np.uint8]) -> Values:
    """Difference of the mean colour where the truth has its lips, levels of 255; NaN if they are hidden."""
    return _colour_difference(output_NHWC, truth_NHWC, lips_NHW)


def makeup_error(
    output_NHWC: Images,
    truth_NHWC: Images,
    eye_shadow_NHW: NDArray[np.uint8],
    blush_NHW: NDArray[np.uint8],
) -> Values:
    """Difference of the mean colour where the truth wears eye shadow, and where blusher, levels of 255.

    The mean of both where both are worn, NaN where neither is.
    """
    both = np.stack(
        [_colour_difference(output_NHWC, truth_NHWC, region) for region in (eye_shadow_NHW, blush_NHW)]
    )
    worn = np.isfinite(both).sum(axis=0)
    errors = np.full(both.shape[1], np.nan)
    errors[worn > 0] = np.nansum(both, axis=0)[worn > 0] / worn[worn > 0]
    return errors


def glasses_error(output_NHWC: Images, truth_NHWC: Images, glasses_NHW: NDArray[np.uint8]) -> Values:
    """Mean difference of the pixels of the frame of the truth's glasses, levels of 255; NaN without them."""
    return _pixel_difference(output_NHWC, truth_NHWC, glasses_NHW)


def gaze_error(
    output_NHWC: Images,
    truth_NHWC: Images,
    eyes_NHW: NDArray[np.uint8],
    landmarks_68_N682: NDArray[np.float32],
) -> Values:
    """How far the iris is from the truth's, per cent of the eye's width; NaN where both eyes are shut.

    The iris is taken to be the centre of darkness between the truth's lids, from the brightest tenth to the
    darkest twentieth of the eye's pixels, which an iris of another colour hardly moves. A flat picture looks
    straight ahead. The mean of both eyes, or the eye that is open.
    """
    errors = np.full(len(output_NHWC), np.nan)
    for row, eyes in enumerate(eyes_NHW):
        apart = [
            100.0
            * np.linalg.norm(_iris_place(output_NHWC[row], eye) - _iris_place(truth_NHWC[row], eye))
            / width
            for eye, width in _open_eyes(eyes, landmarks_68_N682[row])
        ]
        if apart:
            errors[row] = np.mean(apart)
    return errors


def background_error(output_NHWC: Images, truth_NHWC: Images, face_NHW: NDArray[np.uint8]) -> Values:
    """Mean difference of the pixels outside the face (hair, neck, clothes, wall), levels of 255."""
    return _pixel_difference(output_NHWC, truth_NHWC, 255 - face_NHW)


def _open_eyes(
    eyes_HW: NDArray[np.uint8], landmarks_682: NDArray[np.float32]
) -> list[tuple[NDArray[np.uint8], float]]:
    """The weights of each eye that shows at least a few pixels, and its width, pixels."""
    corners = [landmarks_682[[first, first + 3]] for first in (RIGHT_EYE_POINTS, LEFT_EYE_POINTS)]
    down, across = np.mgrid[: eyes_HW.shape[0], : eyes_HW.shape[1]] + 0.5
    distances = [np.hypot(across - eye[:, 0].mean(), down - eye[:, 1].mean()) for eye in corners]
    opened = []
    for index, eye in enumerate(corners):
        weights = np.where(distances[index] < distances[1 - index], eyes_HW, 0).astype(np.uint8)
        if (weights >= _HALF_INSIDE).sum() >= _LEAST_EYE_PIXELS:
            opened.append((weights, float(np.linalg.norm(eye[1] - eye[0]))))
    return opened


def _iris_place(picture_HWC: Images, eye_HW: NDArray[np.uint8]) -> Values:
    """Centre (x, y) of the darkness inside an eye, pixels."""
    down, across = np.nonzero(eye_HW)
    light = picture_HWC[down, across] @ _LUMINANCE
    weights = eye_HW[down, across]
    dark, bright = np.quantile(light[weights >= _HALF_INSIDE], [0.05, 0.90])
    flat = bright - dark < 1e-6
    darkness = weights * (1.0 if flat else np.clip((bright - light) / (bright - dark), 0.0, 1.0) ** 2)
    return np.array([across @ darkness, down @ darkness]) / darkness.sum()


def _pixel_difference(output: Images, truth: Images, weights: NDArray[np.uint8]) -> Values:
    return 255.0 * _mean_inside(np.abs(output - truth).mean(axis=3), weights)


def _colour_difference(output: Images, truth: Images, weights: NDArray[np.uint8]) -> Values:
    difference = output - truth
    means = np.stack([_mean_inside(difference[..., channel], weights) for channel in range(3)], axis=1)
    return 255.0 * np.abs(means).mean(axis=1)


def _mean_inside(values_NHW: Images, weights_NHW: NDArray[np.uint8]) -> Values:
    """Weighted mean of each row, NaN where less than `_LEAST_SHARE` of the picture lies inside."""
    weights = weights_NHW / 255.0
    totals = weights.sum(axis=(1, 2))
    seen = totals > _LEAST_SHARE * weights[0].size if len(weights) else totals > 0
    sums = (values_NHW * weights).sum(axis=(1, 2))
    means = np.full(len(sums), np.nan)
    means[seen] = sums[seen] / totals[seen]
    return means


__all__ = [
    "HIGHER_IS_BETTER",
    "ExactTruth",
    "background_error",
    "benchmark_truth",
    "exact_scores",
    "exact_truth",
    "face_psnr",
    "gaze_error",
    "glasses_error",
    "leak",
    "light_error",
    "lip_error",
    "makeup_error",
    "render_rank",
]
