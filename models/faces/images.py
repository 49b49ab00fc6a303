"""Checks on the arrays that every face model takes and gives."""

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float32]
Mask = NDArray[np.bool_]


def require_rgb(image: NDArray[np.generic], name: str = "image") -> Image:
    """Return `image` unchanged if it is a non-empty uint8 array of shape (H, W, 3).

    Raises:
        ValueError: the array has another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{name} must be a non-empty uint8 RGB array HxWx3, got {image.dtype} {image.shape}")
    return image.astype(np.uint8, copy=False)


def require_points(points: NDArray[np.generic], shape: tuple[int, ...], name: str) -> Points:
    """Return `points` as float32 if it has exactly `shape` and only finite values.

    Raises:
        ValueError: the shape differs, or a coordinate is NaN or infinite.
    """
    if points.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {points.shape}")
    values = points.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds a coordinate that is NaN or infinite")
    return values


def require_mask(mask: NDArray[np.generic], size: tuple[int, int], name: str) -> Mask:
    """Return a boolean mask of shape `size` = (height, width); integer masks count as true where non-zero.

    Raises:
        ValueError: the shape differs, or the mask is not boolean or integer.
    """
    if mask.shape != size:
        raise ValueError(f"{name} must have shape {size} (height, width), got {mask.shape}")
    if mask.dtype != np.bool_ and not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(
            f"{name} must be boolean or integer, got {mask.dtype}; threshold probabilities first"
        )
    return mask.astype(np.bool_, copy=False)
