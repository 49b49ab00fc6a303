"""Pixel metrics of swaps against the exact truth.

Images are batches (N, H, W, C), either uint8 in [0, 255] or floating point in [0, 1], as numpy arrays or CPU
tensors; all images of one call must agree in shape. Every metric gives one float64 per row, shape (N,).

Copying the target unchanged already scores a high PSNR, because truth and target share all but the face.
Read PSNR therefore only beside the row "copy target" and beside `swap_progress`, which is 0 for that copy.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

PEAK_PSNR = 100.0
"""Decibels given to a perfect match, so that means over rows stay finite."""

_LEAST_SQUARED_ERROR = 10.0 ** (-PEAK_PSNR / 10.0)


def unit_images(*images: ArrayLike) -> list[NDArray[np.float64]]:
    """The images as float64 in [0, 1], after checks of type, range and equal shape."""
    converted = []
    for image in images:
        array = np.asarray(image)
        if array.ndim != 4:
            raise ValueError(f"images must be (N, H, W, C), got shape {array.shape}")
        if array.dtype == np.uint8:
            array = array.astype(np.float64) / 255.0
        elif np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
            if (
                not np.isfinite(array).all()
                or array.min(initial=0.0) < -1e-6
                or array.max(initial=0.0) > 1 + 1e-6
            ):
                raise ValueError("floating-point images must be finite and lie in [0, 1]; clip or scale them")
        else:
            raise ValueError(f"images must be uint8 or floating point, got {array.dtype}")
        converted.append(array)
    shapes = {array.shape for array in converted}
    if len(shapes) > 1:
        raise ValueError(f"images of one call must agree in shape, got {sorted(shapes)}")
    return converted


def _mask(mask_NHW: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.asarray(mask_NHW)
    if mask.shape != shape[:3]:
        raise ValueError(f"mask must be (N, H, W) = {shape[:3]}, got shape {mask.shape}")
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be boolean, got {mask.dtype}; compare it with its threshold first")
    return mask


def _masked_mean(
    values_NHW: NDArray[np.float64], mask_NHW: NDArray[np.bool_], what: str
) -> NDArray[np.float64]:
    counts = mask_NHW.sum(axis=(1, 2))
    if (counts == 0).any():
        raise ValueError(f"row {int(np.argmin(counts))} has no pixel {what}")
    return (values_NHW * mask_NHW).sum(axis=(1, 2)) / counts


def decibels(squared_error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of mean squared errors of pictures in [0, 1], at most `PEAK_PSNR`."""
    return -10.0 * np.log10(np.maximum(squared_error, _LEAST_SQUARED_ERROR))


def psnr(image_NHWC: ArrayLike, truth_NHWC: ArrayLike) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB over whole pictures, at most `PEAK_PSNR`."""
    image, truth = unit_images(image_NHWC, truth_NHWC)
    return decibels(((image - truth) ** 2).mean(axis=(1, 2, 3)))


def masked_psnr(image_NHWC: ArrayLike, truth_NHWC: ArrayLike, mask_NHW: ArrayLike) -> NDArray[np.float64]:
    """PSNR in dB over the pixels inside a boolean mask; `ValueError` for a row without any."""
    image, truth = unit_images(image_NHWC, truth_NHWC)
    squared = ((image - truth) ** 2).mean(axis=3)
    return decibels(_masked_mean(squared, _mask(mask_NHW, image.shape), "inside its mask"))


def swap_progress(
    output_NHWC: ArrayLike, target_NHWC: ArrayLike, truth_NHWC: ArrayLike
) -> NDArray[np.float64]:
    """How far the output went from the target towards the truth ("alpha"): 0 is a copy, 1 the full swap.

    The coefficient of the projection of (output - target) on (truth - target). It measures one direction
    only: any error at right angles to it is invisible, and what a blurred or constant output happens to share
    with it counts, so read it beside `masked_psnr`. NaN where target and truth are the same picture.
    """
    output, target, truth = unit_images(output_NHWC, target_NHWC, truth_NHWC)
    way = truth - target
    length = (way**2).sum(axis=(1, 2, 3))
    projection = ((output - target) * way).sum(axis=(1, 2, 3))
    return np.divide(projection, length, out=np.full(len(length), np.nan), where=length > 0)


def light_error(image_NHWC: ArrayLike, truth_NHWC: ArrayLike, cells: int = 8) -> NDArray[np.float64]:
    """Difference of the light: mean L1 of the pictures averaged down to `cells` by `cells`, in [0, 255].

    Features smaller than a cell vanish, so what is left is light, shade and overall colour.
    """
    image, truth = unit_images(image_NHWC, truth_NHWC)
    if not 1 <= cells <= min(image.shape[1:3]):
        raise ValueError(f"cells must lie in [1, {min(image.shape[1:3])}], got {cells}")
    difference = image - truth
    averaged = [
        cv2.resize(np.ascontiguousarray(row), (cells, cells), interpolation=cv2.INTER_AREA)
        for row in difference
    ]
    return np.array([255.0 * np.abs(row).mean() for row in averaged], np.float64)


def background_error(
    image_NHWC: ArrayLike, truth_NHWC: ArrayLike, face_mask_NHW: ArrayLike
) -> NDArray[np.float64]:
    """Mean L1 outside the boolean face mask, in [0, 255]; `ValueError` for a row that is all face."""
    image, truth = unit_images(image_NHWC, truth_NHWC)
    absolute = np.abs(image - truth).mean(axis=3)
    return 255.0 * _masked_mean(absolute, ~_mask(face_mask_NHW, image.shape), "outside its face mask")


def render_retrieval_rank1(
    output_NHWC: ArrayLike, candidates_NKHWC: ArrayLike, truth_index_N: ArrayLike
) -> NDArray[np.bool_]:
    """Whether the true identity's picture is the nearest of K candidates, shape (N,).

    The candidates are K identities rendered with the target's attributes, so that nothing but identity tells
    them apart; distance is the mean squared error. Chance is 1 / K. A tie with a wrong candidate is a miss.
    Raises `ValueError` for an index that is no candidate's.
    """
    candidates = np.asarray(candidates_NKHWC)
    if candidates.ndim != 5:
        raise ValueError(f"candidates must be (N, K, H, W, C), got shape {candidates.shape}")
    count, choices = candidates.shape[:2]
    truth_index = np.asarray(truth_index_N)
    if truth_index.shape != (count,) or (truth_index < 0).any() or (truth_index >= choices).any():
        raise ValueError(f"truth_index must hold {count} numbers in [0, {choices - 1}]")
    distances = np.empty((count, choices))
    for choice in range(choices):
        output, candidate = unit_images(output_NHWC, candidates[:, choice])
        distances[:, choice] = ((output - candidate) ** 2).mean(axis=(1, 2, 3))
    own = np.take_along_axis(distances, truth_index[:, None], axis=1)
    beaten = distances <= own
    return beaten.sum(axis=1) == 1
