"""Points read back from pictures of their dots, where the coordinates themselves were not kept.

APPLE's scripts save landmarks and irises only as drawn dots. A dot tells its point to the pixel, not more;
dots that overlap can hide one another; and a dot does not tell which of the points it is. So: positions are
those whose dots, drawn again, give the same picture; which point a dot stands for is told by likeness to a
mean face, which is sure for a face seen from the front and a guess among crowded dots such as closed lips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import transform_points, umeyama
from models.faces.condition import iris_dots, landmark_dots
from models.faces.constants import IRIS_RADIUS, LANDMARK_SIDE_DIVISOR
from models.faces.dot_templates import IRIS_TEMPLATE, LANDMARKS_TEMPLATE
from models.faces.images import Mask, Points

ROLLS = (0, -20, 20, -40, 40)
"""Leanings of the head from which the mean face is fitted, degrees."""

FIT_ROUNDS = 12
ASSIGN_ROUNDS = 4


class DotsError(ValueError):
    """The picture is not one of such dots; the message says why."""


@dataclass(frozen=True)
class RecoveredDots:
    """What a picture of dots tells.

    Attributes:
        points: (N, 2) float32 pixels, centres of the dots' pixels; a point without a dot of its own stands
            where its dot would be hidden by others.
        dots: number of dots that were told apart.
        certain: number of those without which a pixel of the picture would be missing: no other set of dots
            could do without a dot in that very place.
    """

    points: Points
    dots: int
    certain: int


def recover_dots(drawn_HW: Mask, kind: Literal["landmarks", "iris"]) -> RecoveredDots:
    """The 68 landmarks or ten iris points of a picture of their dots, drawn as APPLE draws them.

    Args:
        drawn_HW: bool (H, W), where the picture is not black.
        kind: which dots.

    Raises:
        DotsError: no dots, too many, or a shape that is no union of such dots.
    """
    template = LANDMARKS_TEMPLATE if kind == "landmarks" else IRIS_TEMPLATE
    if not drawn_HW.any():
        raise DotsError("the picture is black: it holds no dots")
    stamp = _stamp(kind, (drawn_HW.shape[0], drawn_HW.shape[1]))
    reach = stamp.shape[0] // 2
    rows, columns = np.nonzero(drawn_HW)
    top, left = max(rows.min() - reach, 0), max(columns.min() - reach, 0)
    drawn = drawn_HW[top : rows.max() + reach + 1, left : columns.max() + reach + 1]
    places, certain, candidates = _centres(drawn, stamp, len(template))
    offset = np.array([left, top]) + 0.5
    points = _in_order(places + offset, candidates + offset, np.array(template))
    draw = landmark_dots if kind == "landmarks" else iris_dots
    if not np.array_equal(draw(points, (drawn_HW.shape[0], drawn_HW.shape[1]), None), drawn_HW):
        raise DotsError("the dots cannot be drawn again from the points: another pen was used")
    return RecoveredDots(points, len(places), certain)


def _stamp(kind: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One dot, as it is drawn in a picture of this size, in an odd square."""
    radius = max(min(size) // LANDMARK_SIDE_DIVISOR, 1) if kind == "landmarks" else IRIS_RADIUS
    reach = 3 * radius
    middle = np.full((1, 2), reach + 0.5, np.float32)
    draw = landmark_dots if kind == "landmarks" else iris_dots
    return draw(middle, (2 * reach + 1, 2 * reach + 1), radius).astype(np.uint8)


def _centres(
    drawn: Mask, stamp: NDArray[np.uint8], limit: int
) -> tuple[NDArray[np.int64], int, NDArray[np.int64]]:
    """The fewest dots found that give the picture, how many of them are certain, and all possible places.

    Places are (column, row). A dot that alone covers some pixel, of all dots that fit, is certain; the rest
    of the picture is covered greedily.
    """

    def hits(values: np.ndarray) -> np.ndarray:
        return cv2.filter2D(
            values.astype(np.float32), -1, stamp.astype(np.float32), borderType=cv2.BORDER_CONSTANT
        ).round()

    possible = cv2.erode(drawn.astype(np.uint8), stamp) > 0  # beyond the border all is taken as covered
    only_one = drawn & (hits(possible) == 1)
    chosen = possible & (hits(only_one) > 0)
    certain = int(chosen.sum())
    left = drawn & (hits(chosen) == 0)
    while left.any() and chosen.sum() <= limit:
        gain = hits(left) * (possible & ~chosen)
        best = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[best] == 0:
            raise DotsError(f"{int(left.sum())} pixels belong to no dot of the pen's shape")
        chosen[best] = True
        left = drawn & (hits(chosen) == 0)
    if chosen.sum() > limit:
        raise DotsError(f"more than {limit} dots")
    return np.argwhere(chosen)[:, ::-1], certain, np.argwhere(possible)[:, ::-1]


def _in_order(
    places_K2: NDArray[np.float64], candidates_M2: NDArray[np.float64], template_N2: NDArray[np.float64]
) -> Points:
    """The points of the template, each at a place; every place is taken, what is left goes to candidates."""
    fits = [_fit_template(places_K2, template_N2, roll) for roll in ROLLS]
    costs = [_distances(places_K2, fitted)[range(len(owners)), owners].sum() for fitted, owners in fits]
    fitted_N2, owners_K = fits[int(np.argmin(costs))]
    points_N2 = candidates_M2[_distances(fitted_N2, candidates_M2).argmin(axis=1)]
    points_N2[owners_K] = places_K2
    return points_N2.astype(np.float32)


def _fit_template(
    places_K2: NDArray[np.float64], template_N2: NDArray[np.float64], roll: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The template laid over the places, starting from a leaning head, and the template point of each place.

    First a similarity with each place drawn to its nearest point, then an affine map, which follows a turned
    head better, with every place given a point of its own.
    """
    angle = np.radians(roll)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = places_K2.mean(axis=0)
    scale = np.sqrt(((places_K2 - centre) ** 2).sum(axis=1).mean()) or 1.0
    fitted = template_N2 @ turn * scale + centre
    for _ in range(FIT_ROUNDS):
        nearest = _distances(places_K2, fitted).argmin(axis=1)
        if len(np.unique(nearest)) < 2 or len(places_K2) < 3:
            break
        matrix = umeyama(template_N2[nearest].astype(np.float32), places_K2.astype(np.float32))
        fitted = transform_points(template_N2.astype(np.float32), matrix).astype(np.float64)
    flat = np.concatenate([template_N2, np.ones((len(template_N2), 1))], axis=1)
    owners_K = _assign(_distances(places_K2, fitted))
    for _ in range(ASSIGN_ROUNDS if len(places_K2) > 3 else 0):
        fitted = flat @ np.linalg.lstsq(flat[owners_K], places_K2, rcond=None)[0]
        owners_K = _assign(_distances(places_K2, fitted))
    return fitted, owners_K


def _distances(first_A2: NDArray[np.float64], second_B2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances, (A, B)."""
    return ((first_A2[:, None] - second_B2[None]) ** 2).sum(axis=2)


def _assign(costs_KN: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row a column of its own, so that the sum of costs is least (K <= N).

    Shortest augmenting paths with potentials (Jonker and Volgenant, 1987).
    """
    rows, columns = costs_KN.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.int64)  # row (from 1) of each column (from 1); 0 is nobody
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        shortest, before = np.full(columns + 1, np.inf), np.zeros(columns + 1, np.int64)
        done = np.zeros(columns + 1, np.bool_)
        while owner[column]:
            done[column] = True
            current = owner[column]
            reduced = costs_KN[current - 1] - row_price[current] - column_price[1:]
            better = ~done[1:] & (reduced < shortest[1:])
            shortest[1:][better], before[1:][better] = reduced[better], column
            following = int(np.argmin(np.where(done, np.inf, shortest)[1:])) + 1
            step = shortest[following]
            row_price[owner[done]] += step
            column_price[done] -= step
            shortest[~done] -= step
            column = following
        while column:
            owner[column] = owner[before[column]]
            column = int(before[column])
    found = np.zeros(rows, np.int64)
    taken = np.flatnonzero(owner[1:])
    found[owner[1:][taken] - 1] = taken
    return found
