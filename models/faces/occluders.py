"""Things that get in front of faces, drawn from random numbers: hands, microphones, cups, bars and cloths.

Augmentation needs many occluders, and photographs of them come with licences. These are drawn from simple
solids with round shading, texture and a soft shadow; they need not fool anybody, only hide what a hand hides.
Nothing random depends on the size, so the same thing is drawn at every size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.images import Image, Mask, require_rgb

OccluderKind = Literal["hand", "microphone", "cup", "bar", "cloth"]

Rgba = NDArray[np.uint8]
"""(S, S, 4): colour, not multiplied, and opacity 0..255."""

SMALLEST_CANVAS = 192
"""Pictures are drawn at least this large and averaged down, so that small ones keep their texture."""

BODY_OPACITY = 128
"""From this opacity on a pixel belongs to the thing; shadows stay below."""

STRONGEST_SHADOW = 0.4

SUBPIXEL_BITS = 4
"""Fractional bits of the coordinates that OpenCV draws with."""

SKIN_TONES = ((250, 218, 195), (226, 178, 145), (188, 130, 95), (134, 88, 62), (84, 54, 40))

NOISE_CELLS = 48

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Placement:
    """Where a thing lies.

    Attributes:
        x, y: its middle, in shares of the picture's side.
        extent: its width in shares of the picture's side.
        angle: direction of its far end (wrist, cable) in radians; 0 is down, as in a picture.
    """

    x: float
    y: float
    extent: float
    angle: float


class _Canvas:
    """Colour and opacity under construction, in a thing's own axes: x across, y towards the far end."""

    def __init__(self, side: int, place: Placement) -> None:
        self.side, self.place = side, place
        self.opacity = np.zeros((side, side), np.float32)
        self.colour = np.zeros((side, side, 3), np.float32)
        sine, cosine = np.sin(place.angle), np.cos(place.angle)
        self.axes = np.array([[cosine, -sine], [sine, cosine]]) * place.extent * side
        self.middle = np.array([place.x, place.y]) * side

    def coordinates(self) -> tuple[Field, Field]:
        """The thing's own x and y at every pixel."""
        rows, columns = np.mgrid[: self.side, : self.side].astype(np.float32) + 0.5
        inverse = np.linalg.inv(self.axes).astype(np.float32)
        dx, dy = columns - np.float32(self.middle[0]), rows - np.float32(self.middle[1])
        return inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy

    def polygon(self, points: Sequence[tuple[float, float]]) -> Field:
        """Coverage 0..1 of a filled polygon."""
        drawn = np.zeros((self.side, self.side), np.uint8)
        pixels = np.array(points) @ self.axes.T + self.middle
        fixed = np.rint(pixels * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(drawn, [fixed], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        return drawn.astype(np.float32) / np.float32(255)

    def capsule(self, start: tuple[float, float], end: tuple[float, float], width: float) -> Field:
        """Coverage of a line with round ends."""
        direction = np.arctan2(end[1] - start[1], end[0] - start[0])
        turns = direction + np.pi / 2 + np.linspace(0, np.pi, 16)
        arc = np.stack([np.cos(turns), np.sin(turns)], axis=1) * width / 2
        outline = np.concatenate([np.array(start) + arc, np.array(end) - arc])
        return self.polygon([(float(x), float(y)) for x, y in outline])

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
        """Coverage of an ellipse along the thing's axes."""
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        return self.polygon(
            [(centre[0] + radii[0] * np.cos(t), centre[1] + radii[1] * np.sin(t)) for t in turns]
        )

    def lay(self, coverage: Field, colour: NDArray[np.floating], roundness: float) -> None:
        """Put a solid on top.

        Args:
            coverage: (side, side), 0..1.
            colour: RGB in 0..1, (3,) or (side, side, 3).
            roundness: how far from its edge the solid still turns away from the light, in extents.
        """
        depth = cv2.distanceTransform((coverage > 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        reach = max(1.0, roundness * self.place.extent * self.side)
        light = 0.5 + 0.5 * np.sin(np.clip(depth / reach, 0, 1) * np.pi / 2)
        shaded = np.broadcast_to(colour, self.colour.shape) * light[:, :, None]
        share = coverage[:, :, None]
        self.colour = (shaded * share + self.colour * (1 - share)).astype(np.float32)
        self.opacity = np.maximum(self.opacity, coverage)


def _noise(rng: np.random.Generator, side: int, cells: int, amount: float) -> Field:
    """Smooth noise around 1, (side, side, 1)."""
    values = rng.uniform(1 - amount, 1 + amount, (cells, cells)).astype(np.float32)
    noise = cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC)
    return noise.astype(np.float32, copy=False)[:, :, None]


def _paint(rng: np.random.Generator) -> NDArray[np.float32]:
    """A colour of things, RGB in 0..1: any hue, seldom glaring."""
    grey = rng.uniform(0.1, 0.95)
    return np.clip(grey + rng.normal(0, 0.22, 3), 0.03, 1).astype(np.float32)


def _hand(canvas: _Canvas, rng: np.random.Generator) -> None:
    tones = np.array(SKIN_TONES, np.float32) / 255
    place = rng.uniform(0, len(tones) - 1)
    low = int(place)
    skin = tones[low] + (tones[min(low + 1, len(tones) - 1)] - tones[low]) * (place - low)
    texture = skin * _noise(rng, canvas.side, NOISE_CELLS, 0.05)
    sleeve, sleeve_from = _paint(rng), rng.uniform(0.75, 1.3)
    spread, bend = rng.uniform(0.02, 0.16), rng.uniform(-0.1, 0.1)
    lengths = np.array([0.44, 0.52, 0.48, 0.36]) * rng.uniform(0.8, 1.1, 4)
    folded = rng.random(4) < 0.15
    thumb_side, thumb_turn = rng.choice((-1, 1)), rng.uniform(0.1, 0.45)
    canvas.lay(canvas.capsule((0, 0.35), (bend, 2.5), 0.42), texture, 0.2)
    canvas.lay(
        canvas.polygon([(-0.3, sleeve_from), (0.3, sleeve_from), (0.45, 2.9), (-0.45, 2.9)]), sleeve, 0.22
    )
    canvas.lay(canvas.ellipse((0, 0.15), (0.31, 0.33)), texture, 0.22)
    for finger, (length, is_folded) in enumerate(zip(lengths, folded, strict=True)):
        root = ((finger - 1.5) * 0.155, -0.05 + 0.03 * abs(finger - 1.5))
        tip_x = root[0] * (1 + spread * 6) + bend
        tip = (tip_x, root[1] - length * (0.35 if is_folded else 1))
        canvas.lay(canvas.capsule(root, tip, 0.145), texture, 0.075)
    root = (thumb_side * 0.22, 0.22)
    canvas.lay(canvas.capsule(root, (thumb_side * 0.5, 0.22 - thumb_turn), 0.16), texture, 0.08)


def _microphone(canvas: _Canvas, rng: np.random.Generator) -> None:
    body, head = _paint(rng) * 0.5, np.full(3, rng.uniform(0.25, 0.75), np.float32)
    meshes, ring = rng.uniform(14, 26), _paint(rng)
    canvas.lay(
        canvas.polygon([(-0.24, 0.2), (0.24, 0.2), (0.15, 2.6), (-0.15, 2.6)]),
        body * _noise(rng, canvas.side, 24, 0.04),
        0.18,
    )
    x, y = canvas.coordinates()
    mesh = 0.72 + 0.28 * (np.sin(x * meshes * 3) * np.sin(y * meshes * 3))[:, :, None]
    canvas.lay(canvas.ellipse((0, -0.1), (0.42, 0.44)), head * mesh, 0.3)
    canvas.lay(canvas.polygon([(-0.36, 0.18), (0.36, 0.18), (0.34, 0.3), (-0.34, 0.3)]), ring, 0.1)


def _cup(canvas: _Canvas, rng: np.random.Generator) -> None:
    paint, stripe = _paint(rng), _paint(rng)
    narrow, height = rng.uniform(0.28, 0.46), rng.uniform(0.9, 1.5)
    side, band = rng.choice((-1, 1)), rng.uniform(0.15, 0.6)
    if rng.random() < 0.6:
        x, y = canvas.coordinates()
        radius = np.hypot(x - side * 0.5, (y - height * 0.4) * 0.8)
        edge = 3 / canvas.side / canvas.place.extent
        handle = np.clip((0.06 - np.abs(radius - 0.24)) / edge + 0.5, 0, 1).astype(np.float32)
        canvas.lay(handle, paint, 0.05)
    wall = canvas.polygon([(-0.5, 0), (0.5, 0), (narrow, height), (-narrow, height)])
    _, y = canvas.coordinates()
    striped = np.where((np.abs(y - band * height) < 0.12)[:, :, None], stripe, paint)
    canvas.lay(wall, striped * _noise(rng, canvas.side, 16, 0.05), 0.4)
    canvas.lay(canvas.ellipse((0, 0), (0.5, 0.11)), np.clip(paint * 1.25, 0, 1), 0.04)
    canvas.lay(canvas.ellipse((0, 0.01), (0.44, 0.08)), paint * 0.35, 0.02)


def _bar(canvas: _Canvas, rng: np.random.Generator) -> None:
    paint, other = _paint(rng), _paint(rng)
    width, bands = rng.uniform(0.25, 0.6), rng.uniform(2, 9)
    is_striped = rng.random() < 0.4
    _, y = canvas.coordinates()
    colour: NDArray[np.floating] = paint * _noise(rng, canvas.side, NOISE_CELLS, 0.06)
    if is_striped:
        colour = np.where((np.sin(y * bands * 2) > 0)[:, :, None], colour, other)
    far = 3 / canvas.place.extent
    canvas.lay(
        canvas.polygon([(-width / 2, -far), (width / 2, -far), (width / 2, far), (-width / 2, far)]),
        colour,
        width * 0.45,
    )


def _cloth(canvas: _Canvas, rng: np.random.Generator) -> None:
    paint, other = _paint(rng), _paint(rng)
    waves = rng.normal(0, 1, (2, 5)) / np.arange(2, 7)
    squeeze, weave, folds = rng.uniform(0.55, 1.0), rng.uniform(8, 30), rng.uniform(5, 12)
    pattern, turn = rng.integers(3), rng.uniform(0, np.pi)
    turns = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.full_like(turns, 0.5)
    for order in range(5):
        radius += 0.09 * waves[0, order] * np.cos((order + 2) * turns)
        radius += 0.09 * waves[1, order] * np.sin((order + 2) * turns)
    radius = np.clip(radius, 0.15, 0.8)
    outline = list(zip(radius * np.cos(turns), radius * squeeze * np.sin(turns), strict=True))
    x, y = canvas.coordinates()
    along = x * np.cos(turn) + y * np.sin(turn)
    across = y * np.cos(turn) - x * np.sin(turn)
    wrinkle = _noise(rng, canvas.side, 6, 0.5)[:, :, 0]
    fold = 0.8 + 0.2 * np.sin(along * folds + 4 * wrinkle)
    stripes = np.sin(along * weave + wrinkle) > 0
    if pattern == 1:
        stripes = stripes ^ (np.sin(across * weave + wrinkle) > 0)
    colour = np.where(stripes[:, :, None], paint, other) if pattern < 2 else paint
    canvas.lay(
        canvas.polygon(outline),
        colour * fold[:, :, None] * _noise(rng, canvas.side, NOISE_CELLS, 0.08),
        0.06,
    )


_DRAWN: Mapping[OccluderKind, Callable[[_Canvas, np.random.Generator], None]] = MappingProxyType(
    {"hand": _hand, "microphone": _microphone, "cup": _cup, "bar": _bar, "cloth": _cloth}
)

OCCLUDER_KINDS: tuple[OccluderKind, ...] = tuple(_DRAWN)


def draw_occluder(
    rng: np.random.Generator, size: int, place: Placement, kind: OccluderKind | None = None
) -> Rgba:
    """Draw one thing with its shadow, (size, size, 4) uint8.

    Args:
        rng: decides everything about it; the same state gives the same thing at every size.
        size: side of the square picture, px.
        place: where it lies; it may reach over the edges.
        kind: which thing; None draws one.
    """
    # drawn in every case, so that naming the kind changes nothing else
    drawn = OCCLUDER_KINDS[int(rng.integers(len(OCCLUDER_KINDS)))]
    offset, softness = rng.uniform(-0.09, 0.09, 2), rng.uniform(0.02, 0.07)
    strength = rng.uniform(0.1, STRONGEST_SHADOW)
    factor = max(1, -(-SMALLEST_CANVAS // size))
    canvas = _Canvas(size * factor, place)
    _DRAWN[kind or drawn](canvas, rng)
    body = canvas.opacity
    reach = place.extent * canvas.side
    shift = np.array([[1, 0, offset[0] * reach], [0, 1, offset[1] * reach]])
    cast = cv2.warpAffine(body, shift, (canvas.side, canvas.side), borderMode=cv2.BORDER_REPLICATE)
    shadow = strength * cv2.GaussianBlur(cast, (0, 0), max(0.5, softness * reach))
    opacity = body + (1 - body) * shadow
    coloured = np.clip(canvas.colour, 0, 1) * body[:, :, None]
    opacity, coloured = (
        cv2.resize(field, (size, size), interpolation=cv2.INTER_AREA) for field in (opacity, coloured)
    )
    colour = coloured / np.maximum(opacity, 1e-6)[:, :, None]
    return np.rint(np.dstack([np.clip(colour, 0, 1), np.clip(opacity, 0, 1)]) * 255).astype(np.uint8)


def body_of(rgba: Rgba) -> Mask:
    """The pixels of the thing itself, without its shadow, bool (S, S)."""
    return rgba[:, :, 3] >= BODY_OPACITY


def paste(image: Image, rgba: Rgba) -> Image:
    """The picture with the thing in front of it, uint8 (S, S, 3).

    Pixels of opacity 0 are the picture's own to the bit, those of 255 the thing's.

    Raises:
        ValueError: no RGB picture, or one of another size.
    """
    image = require_rgb(image)
    if rgba.shape != (*image.shape[:2], 4):
        raise ValueError(f"an occluder {rgba.shape} does not fit a picture {image.shape}")
    share = rgba[:, :, 3:].astype(np.float32) / 255
    mixed = rgba[:, :, :3] * share + image * (1 - share)
    return np.rint(mixed).astype(np.uint8)
