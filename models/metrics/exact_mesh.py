"""Head pose and expression of swaps against the exact truth, both read from MediaPipe's face mesh.

The truth is measured by the same mesh as the output, so that what the mesh misreads in a rendered face
cancels. Nothing of MediaPipe is imported here; whoever measures brings a `FaceMesh`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.faces.landmarks import head_pose
from models.faces.mesh import POINT_COUNT, MeshFit
from models.metrics.attributes import expression_mesh_difference, pose_difference
from models.metrics.exact_truth import ExactTruth

Values = NDArray[np.float64]


class Mesher(Protocol):
    """What fits a mesh to the face in a box of a picture: `models.faces.mesh.FaceMesh`."""

    def fit(self, image: NDArray[np.uint8], box: NDArray[np.floating]) -> MeshFit | None:
        """The mesh in pixels of `image` (H, W, 3) uint8 RGB, or None without a face in (x0, y0, x1, y1)."""
        ...


@dataclass(frozen=True)
class MeshTruth:
    """Pose and mesh of the N truths, NaN where the mesh finds no face on one, and the mesh for the outputs.

    Attributes:
        mesher: fits the outputs too.
        poses_N3: float64, yaw, pitch and roll in degrees.
        meshes_N478x3: float64, pixels.
    """

    mesher: Mesher
    poses_N3: Values
    meshes_N478x3: Values


def mesh_truth(bench: ExactTruth, mesher: Mesher) -> MeshTruth:
    """Fit the mesh on the truths, once for any number of methods."""
    return MeshTruth(mesher, *_fits(bench.truth_NHWC, bench, mesher))


def mesh_errors(outputs_NHWC: NDArray[np.generic], bench: ExactTruth, meshes: MeshTruth) -> dict[str, Values]:
    """`pose_error` (degrees) and `expression_error` (inter-ocular distances) of N swaps, float64 (N,).

    The face is looked for where the truth's landmarks are, in a crop enlarged to the mesh's own input. NaN
    where the mesh finds no face there on the output or on the truth. See `pose_difference` and
    `expression_mesh_difference`; compared with the truth, the person's own face shape does not count as an
    error.
    """
    outputs = (
        outputs_NHWC.astype(np.uint8)
        if outputs_NHWC.dtype == np.uint8
        else np.rint(outputs_NHWC.astype(np.float64) * 255.0).astype(np.uint8)
    )
    poses, points = _fits(outputs, bench, meshes.mesher)
    found = np.isfinite(poses).all(axis=1) & np.isfinite(meshes.poses_N3).all(axis=1)
    errors = {name: np.full(len(bench), np.nan) for name in ("pose_error", "expression_error")}
    errors["pose_error"][found] = pose_difference(poses[found], meshes.poses_N3[found])
    errors["expression_error"][found] = expression_mesh_difference(points[found], meshes.meshes_N478x3[found])
    return errors


def _fits(pictures: NDArray[np.uint8], bench: ExactTruth, mesher: Mesher) -> tuple[Values, Values]:
    poses = np.full((len(bench), 3), np.nan)
    points = np.full((len(bench), POINT_COUNT, 3), np.nan)
    for row, (picture, landmarks) in enumerate(zip(pictures, bench.landmarks_68_N682, strict=True)):
        box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
        fit = mesher.fit(np.ascontiguousarray(picture), box)
        if fit is not None:
            poses[row] = head_pose(fit.transform_4x4)
            points[row] = fit.points_478x3
    return poses, points
