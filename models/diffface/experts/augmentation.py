"""Random views of a face for the identity expert, differentiable in the picture.

DiffFace, section 3.3: one view as it is, the others turned by up to 15 degrees and moved by up to a tenth of
the side (the edge repeats outside), then tilted by a random perspective (black outside), either with
probability 0.7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from models.diffface.randomness import Draw, Moment, Purpose

PROBABILITY: Final = 0.7
LARGEST_ANGLE: Final = 15.0
LARGEST_SHIFT: Final = 0.1
DISTORTION: Final = 0.7
"""Share of half the side by which corners move inwards at most."""


def random_views(images_BCHW: Tensor, count: int, moment: Moment) -> Tensor:
    """`count` views of each picture, (B, count, C, H, W), the first of them the picture itself.

    What a row is shown depends on its draw and the step alone.

    Args:
        images_BCHW: floating point.
        count: at least 1.
        moment: step, and random numbers of every row.

    Raises:
        ValueError: no view, or another number of draws than of pictures.
    """
    if count < 1:
        raise ValueError(f"aug_num is the number of views, at least 1, not {count}")
    if len(moment.draws) != len(images_BCHW):
        raise ValueError(f"{len(moment.draws)} draws for {len(images_BCHW)} pictures")
    clean_B1CHW = images_BCHW[:, None]
    if count == 1 or not len(images_BCHW):
        return clean_B1CHW.expand(-1, count, -1, -1, -1)
    moved = images_BCHW.repeat_interleave(count - 1, dim=0)
    height, width = images_BCHW.shape[2:]
    affine, perspective = view_matrices(moment.draws, moment.index, count - 1, height, width)
    moved = _warp(moved, affine.to(moved), "border")
    moved = _warp(moved, perspective.to(moved), "zeros")
    return torch.cat([clean_B1CHW, moved.unflatten(0, (-1, count - 1))], dim=1)


def view_matrices(
    draws: Sequence[Draw], index: int, count: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Transforms of pixel centres of `count` views of every draw, (B * count, 3, 3) each, float64.

    Returns:
        Turns with shifts, and perspectives; where a view gets none of a kind, the identity.
    """
    numbers_VK = torch.cat(
        [
            torch.rand(count, 13, generator=draw.generator(Purpose.VIEWS, index), dtype=torch.float64)
            for draw in draws
        ]
    )
    turned, tilted = numbers_VK[:, 0] < PROBABILITY, numbers_VK[:, 1] < PROBABILITY
    angle, right, down = (numbers_VK[:, 2:5] * 2 - 1).unbind(dim=1)
    inwards_V42 = numbers_VK[:, 5:].unflatten(1, (4, 2))
    unit = torch.eye(3, dtype=torch.float64)
    affine = _turns(angle * LARGEST_ANGLE, right * LARGEST_SHIFT, down * LARGEST_SHIFT, height, width)
    perspective = _tilts(inwards_V42 * DISTORTION / 2, height, width)
    return (
        torch.where(turned[:, None, None], affine, unit),
        torch.where(tilted[:, None, None], perspective, unit),
    )


def _turns(degrees: Tensor, right: Tensor, down: Tensor, height: int, width: int) -> Tensor:
    """Turns about the middle, then shifts in parts of the sides."""
    radians = degrees * (math.pi / 180)
    cosine, sine = radians.cos(), radians.sin()
    x, y = (width - 1) / 2, (height - 1) / 2
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    rows = [
        torch.stack([cosine, -sine, x - cosine * x + sine * y + right * width], dim=1),
        torch.stack([sine, cosine, y - sine * x - cosine * y + down * height], dim=1),
        torch.stack([zero, zero, one], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _tilts(inwards_V42: Tensor, height: int, width: int) -> Tensor:
    """Perspectives that move the four corners inwards, by parts of the sides."""
    from kornia.geometry.transform import get_perspective_transform

    x, y = float(width - 1), float(height - 1)
    corners = inwards_V42.new_tensor([[0.0, 0.0], [x, 0.0], [x, y], [0.0, y]])
    signs = inwards_V42.new_tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    goals = corners + signs * inwards_V42 * inwards_V42.new_tensor([x, y])
    return get_perspective_transform(corners.expand_as(goals), goals)


def _warp(images_BCHW: Tensor, matrices_B33: Tensor, padding: str) -> Tensor:
    from kornia.geometry.transform import warp_perspective

    height, width = images_BCHW.shape[2:]
    return warp_perspective(
        images_BCHW, matrices_B33, (height, width), padding_mode=padding, align_corners=True
    )
