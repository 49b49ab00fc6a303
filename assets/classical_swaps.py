"""The method `mesh_warp` of `swaps`: a classical swap of the two photographs, without any checkpoint.

It works on the photographs at `WARP_SIDE`, however small the swap model is, and is then brought to the
model's frame like every photograph: what is compared is the method, not how little it was given to see.
"""

from __future__ import annotations

import numpy as np

from assets.condition import TARGET_COLUMN, row_frame
from assets.stage import Input, Row
from assets.swapping import SOURCE, TARGET
from models.baselines.mesh_warp import MeshFace, forehead_of_mesh, mesh_warp_swap
from models.baselines.triangulation import DegenerateGeometry
from models.faces.frame import square_picture
from resources.photos.reasons import Reason, RowError

MESH_WARP = "mesh_warp"
"""The method's name, and what its pictures' marks name as the model."""

WARP_SIDE = 256
"""Side of the square frames that are warped, px; a larger model's own."""

MESH_WARP_INPUTS = (
    Input("landmarks", ("landmarks_68", "mesh_478"), via=SOURCE),
    Input("landmarks", ("landmarks_68", "mesh_478"), via=TARGET),
    Input("iris", ("iris_10",), via=SOURCE),
    Input("iris", ("iris_10",), via=TARGET),
    Input("masks", ("parsing", "visible_face"), via=SOURCE),
    Input("masks", ("parsing", "visible_face"), via=TARGET),
    # the source's pixels are read of `faces`; this digest stands for them
    Input("latents", (TARGET_COLUMN,), via=SOURCE),
)
"""What it reads of both photographs besides their pixels."""


def mesh_warped(row: Row, size: int) -> np.ndarray | RowError:
    """The swap of a pair row, RGB uint8 (size, size, 3), or why its faces cannot be warped."""
    side = max(size, WARP_SIDE)
    try:
        warped = mesh_warp_swap(_face(row, SOURCE, side), _face(row, TARGET, side))
    except DegenerateGeometry as error:
        return RowError(Reason.FACE_TOO_SMALL, str(error))
    frame = row_frame(_of_side(row, TARGET), size)
    # a pixel at the face's edge, averaged of both, would else differ outside the mask
    return np.where(frame.face_mask[..., None], square_picture(warped, size), frame.image).astype(np.uint8)


def _face(row: Row, side: str, size: int) -> MeshFace:
    values = _of_side(row, side)
    frame = row_frame(values, size)
    height, width = values["image"].shape[:2]
    scale = np.array([size / width, size / height], np.float32)
    forehead = forehead_of_mesh(np.asarray(values["mesh_478"]).reshape(478, -1)) * scale
    return MeshFace(frame.image, frame.landmarks_68, frame.face_mask, forehead)


def _of_side(row: Row, side: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{side}."): value for name, value in row.items() if name.startswith(f"{side}.")
    }
