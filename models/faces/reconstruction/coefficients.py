"""The 257 coefficients of a face: what they mean and how they lie in one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

IDENTITY_SIZE: Final = 80
EXPRESSION_SIZE: Final = 64
ALBEDO_SIZE: Final = 80
ANGLE_SIZE: Final = 3
ILLUMINATION_SIZE: Final = 27
TRANSLATION_SIZE: Final = 3

SIZES: Final = (
    IDENTITY_SIZE,
    EXPRESSION_SIZE,
    ALBEDO_SIZE,
    ANGLE_SIZE,
    ILLUMINATION_SIZE,
    TRANSLATION_SIZE,
)
"""Lengths of the groups in the order in which they lie in a row (3DDFA-V3, reconstruction network)."""

COEFFICIENT_COUNT: Final = sum(SIZES)
"""257."""


@dataclass(frozen=True)
class FaceCoefficients:
    """One row per face, float.

    Attributes:
        identity_B80: weights of the shape basis.
        expression_B64: weights of the expression basis.
        albedo_B80: weights of the albedo basis.
        angles_B3: rotation about x, y and z in radians; applied in this order.
        illumination_B27: spherical harmonics, 9 bands for each of red, green and blue.
        translation_B3: shift in model units: right, up, towards the camera.
    """

    identity_B80: Tensor
    expression_B64: Tensor
    albedo_B80: Tensor
    angles_B3: Tensor
    illumination_B27: Tensor
    translation_B3: Tensor

    def join(self) -> Tensor:
        """The rows as the network gives them, (B, 257)."""
        return torch.cat(
            [
                self.identity_B80,
                self.expression_B64,
                self.albedo_B80,
                self.angles_B3,
                self.illumination_B27,
                self.translation_B3,
            ],
            dim=1,
        )


def split_coefficients(rows_BC: Tensor) -> FaceCoefficients:
    """Name the parts of rows of 257 coefficients.

    Identity 0..79, expression 80..143, albedo 144..223, angles 224..226, illumination 227..253, translation
    254..256.

    Raises:
        ValueError: another shape than (B, 257).
    """
    if rows_BC.ndim != 2 or rows_BC.shape[1] != COEFFICIENT_COUNT:
        raise ValueError(f"expected coefficients (B, {COEFFICIENT_COUNT}), got {tuple(rows_BC.shape)}")
    return FaceCoefficients(*rows_BC.split(SIZES, dim=1))
