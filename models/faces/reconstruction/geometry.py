"""Coefficients to landmarks: shape, rigid motion and projection to the 224-pixel crop.

Source of all constants and conventions: 3DDFA-V3, after Deng et al. (2019). Nothing is rendered, so hidden
vertices are projected like visible ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.faces.landmarks import head_pose
from models.faces.reconstruction.bfm import CHIN_LINE, NO_LINE, PROFILE_LINES, FaceModel
from models.faces.reconstruction.coefficients import FaceCoefficients
from models.faces.reconstruction.five_points import CROP_SIZE

FOCAL_LENGTH: Final = 1015.0
"""In crop pixels; a field of view of 12.6 degrees."""

PRINCIPAL_POINT: Final = CROP_SIZE / 2
"""In crop pixels, from the left and from the bottom."""

CAMERA_DISTANCE: Final = 10.0
"""Distance of the camera from the origin in model units."""


@dataclass(frozen=True)
class CropLandmarks:
    """Landmarks of B faces, each (B, K, 3) float32.

    The first two columns are pixels of the crop, x to the right and y down. The third is the depth in the
    scale the crop has at the face's origin: pixels, smaller is nearer the camera, zero at the origin.

    Attributes:
        landmarks_68: iBUG order; contour points follow their vertices, hidden or not.
        landmarks_106: likewise.
        landmarks_106_silhouette: the 106 with their contour moved to the visible outline (the "2D" set).
        landmarks_134: likewise.
        in_front_B: bool; whether every vertex lies before the camera. Where not, the numbers mean nothing.
    """

    landmarks_68: Tensor
    landmarks_106: Tensor
    landmarks_106_silhouette: Tensor
    landmarks_134: Tensor
    in_front_B: Tensor


def rotation_matrix(angles_B3: Tensor) -> Tensor:
    """Rotation R = Rz Ry Rx of column vectors, (B, 3, 3), from angles about x, y and z in radians."""
    cos_B3, sin_B3 = torch.cos(angles_B3), torch.sin(angles_B3)
    (cx, cy, cz), (sx, sy, sz) = cos_B3.unbind(1), sin_B3.unbind(1)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def project(points_BV3: Tensor) -> Tensor:
    """Pinhole projection of model-space points to crop pixels, (B, V, 2), x to the right and y down.

    The last row of the crop has height 0, hence row = 223 - height.
    """
    distance_BV1 = CAMERA_DISTANCE - points_BV3[..., 2:]
    image_BV2 = FOCAL_LENGTH * points_BV3[..., :2] / distance_BV1 + PRINCIPAL_POINT
    column_BV, height_BV = image_BV2.unbind(-1)
    return torch.stack([column_BV, CROP_SIZE - 1 - height_BV], dim=-1)


def pose_degrees(angles_B3: Tensor) -> NDArray[np.float32]:
    """Yaw, pitch and roll of each head, (B, 3) degrees, with the signs of `models.faces.landmarks.head_pose`.

    These are not the three angles themselves, which turn about fixed axes in another order.
    """
    transforms = np.tile(np.eye(4, dtype=np.float32), (len(angles_B3), 1, 1))
    transforms[:, :3, :3] = rotation_matrix(angles_B3.detach().double()).float().cpu().numpy()
    return np.array([head_pose(transform) for transform in transforms], np.float32).reshape(-1, 3)


class FaceGeometry(nn.Module):
    """The part of a face model that landmarks need, as tensors.

    Of the vertices only those are kept that are a landmark or lie on a profile line.
    """

    mean_V3: Tensor
    identity_basis_V3K: Tensor
    expression_basis_V3K: Tensor
    index_68: Tensor
    index_106: Tensor
    index_134: Tensor
    on_line_LV: Tensor

    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        on_profile = np.flatnonzero(model.profile_line != NO_LINE)
        indices = (model.landmarks_68, model.landmarks_106, model.landmarks_134)
        vertices = np.unique(np.concatenate([*indices, on_profile]))
        self.register_buffer("mean_V3", torch.from_numpy(model.mean_shape[vertices]), persistent=False)
        for name, basis in (
            ("identity_basis_V3K", model.identity_basis),
            ("expression_basis_V3K", model.expression_basis),
        ):
            self.register_buffer(name, torch.from_numpy(basis[vertices]), persistent=False)
        for name, landmarks in zip(("index_68", "index_106", "index_134"), indices, strict=True):
            places = torch.from_numpy(np.searchsorted(vertices, landmarks))
            self.register_buffer(name, places, persistent=False)
        on_line = model.profile_line[vertices] == np.arange(PROFILE_LINES)[:, None]
        self.register_buffer("on_line_LV", torch.from_numpy(on_line), persistent=False)

    def shape(self, coefficients: FaceCoefficients) -> Tensor:
        """Vertices before rotation and translation, (B, V, 3) in model units."""
        identity = torch.einsum("vck,bk->bvc", self.identity_basis_V3K, coefficients.identity_B80)
        expression = torch.einsum("vck,bk->bvc", self.expression_basis_V3K, coefficients.expression_B64)
        return self.mean_V3 + identity + expression

    def forward(self, coefficients: FaceCoefficients) -> CropLandmarks:
        """Landmarks in the crop."""
        shape_BV3 = self.shape(coefficients)
        translation_B13 = coefficients.translation_B3[:, None]
        points_BV3 = shape_BV3 @ rotation_matrix(coefficients.angles_B3).mT + translation_B13
        origin_B1 = CAMERA_DISTANCE - coefficients.translation_B3[:, 2:]
        distance_BV = CAMERA_DISTANCE - points_BV3[..., 2]
        depth_BV = FOCAL_LENGTH * (distance_BV - origin_B1) / origin_B1
        landmarks_BV3 = torch.cat([project(points_BV3), depth_BV[..., None]], dim=-1)
        outline_B106 = self._outline(shape_BV3, coefficients)
        rows_B1 = torch.arange(len(shape_BV3), device=shape_BV3.device)[:, None]
        return CropLandmarks(
            landmarks_68=landmarks_BV3[:, self.index_68],
            landmarks_106=landmarks_BV3[:, self.index_106],
            landmarks_106_silhouette=landmarks_BV3[rows_B1, outline_B106],
            landmarks_134=landmarks_BV3[:, self.index_134],
            in_front_B=((distance_BV > 0).all(dim=1) & (origin_B1[:, 0] > 0)),
        )

    def _outline(self, shape_BV3: Tensor, coefficients: FaceCoefficients) -> Tensor:
        """Vertices of the 106 landmarks with the contour on the silhouette, (B, 106).

        With the roll taken out, each contour point is the vertex of its profile line that lies furthest to
        the left (first half) or to the right (second half); the chin stays.
        """
        angles_B3 = coefficients.angles_B3 * coefficients.angles_B3.new_tensor([1.0, 1.0, 0.0])
        upright_BV3 = shape_BV3 @ rotation_matrix(angles_B3).mT + coefficients.translation_B3[:, None]
        x_B1V = project(upright_BV3)[:, None, :, 0]
        left, right = self.on_line_LV[:CHIN_LINE], self.on_line_LV[CHIN_LINE + 1 :]
        outline_B106 = self.index_106.repeat(len(shape_BV3), 1)
        outline_B106[:, :CHIN_LINE] = x_B1V.masked_fill(~left, torch.inf).argmin(dim=2)
        outline_B106[:, CHIN_LINE + 1 : PROFILE_LINES] = x_B1V.masked_fill(~right, -torch.inf).argmax(dim=2)
        return outline_B106
