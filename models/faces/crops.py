"""Faces of any photograph, cut out in the style of a data set, with the way back kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from models.faces.alignment import align_to_ffhq, align_to_vggface2, paste_back, warp
from models.faces.choice import FaceChoice, choose_faces
from models.faces.detection import CenterFace
from models.faces.images import Image, Mask, Points
from models.faces.landmarks import head_pose, inter_ocular_px, landmarks_68_from_mesh
from models.faces.mesh import FaceMesh
from models.identity.arcface_alignment import arcface_points_from_68

HOLE_SHARE = 0.005
"""Holes of a pasted mask below this share of its area are mistakes of the parsing, such as the glint of an
eye; what occludes a face is larger, or reaches over its edge."""

CropStyle = Literal["ffhq", "vggface2"]


@dataclass(frozen=True)
class FaceCrop:
    """One face of a photograph.

    Attributes:
        image: uint8 (S, S, 3), the aligned crop.
        matrix_2x3: float32, photo to crop, continuous pixels.
        box_4: float32 (x0, y0, x1, y1) pixels of the photo.
        score: the detector's, 0..1.
        landmarks_68: (68, 2) pixels of the photo.
        inter_ocular: distance between the eye centres, pixels of the photo.
        yaw: turn of the head to a side, degrees; positive to the picture's right.
    """

    image: Image
    matrix_2x3: Points
    box_4: Points
    score: float
    landmarks_68: Points
    inter_ocular: float
    yaw: float

    def paste(self, photo: Image, edited: Image, mask_SS: Mask | None = None, feather: float = 0.0) -> Image:
        """The photo with `edited`, a changed `image`, in the place of this face; see `paste_back`."""
        return paste_back(photo, edited, self.matrix_2x3, mask_SS, feather)


def face_crops(
    image: Image,
    detector: CenterFace,
    mesh: FaceMesh,
    *,
    choice: FaceChoice = "all",
    style: CropStyle = "ffhq",
    size: int = 512,
    score_threshold: float = 0.5,
) -> list[FaceCrop]:
    """The chosen faces of an upright photo; no face gives an empty list.

    A detection on which no mesh can be fitted is no face. Nothing is refused for being small or turned:
    `inter_ocular` and `yaw` tell, and the caller decides.

    Args:
        image: uint8 RGB (H, W, 3), upright.
        detector: finds the faces.
        mesh: fits each of them.
        choice: which faces; `closest` is not offered here, see `models.faces.choice.choose_faces`.
        style: frame as in FFHQ or as in VGGFace2-HQ.
        size: side of the crops, pixels.
        score_threshold: lowest detector score.

    Raises:
        ValueError: the image is not RGB, or the choice is `closest`.
    """
    found = detector.detect(image, score_threshold=score_threshold)
    crops: list[FaceCrop] = []
    for index in choose_faces(found.boxes_N4, choice):
        fit = mesh.fit(image, found.boxes_N4[index])
        if fit is None:
            continue
        landmarks_68 = landmarks_68_from_mesh(fit.points_478x3)[:, :2]
        if style == "ffhq":
            matrix = align_to_ffhq(landmarks_68, size)
        else:
            matrix = align_to_vggface2(arcface_points_from_68(landmarks_68), size)
        crops.append(
            FaceCrop(
                image=warp(image, matrix, size),
                matrix_2x3=matrix,
                box_4=found.boxes_N4[index],
                score=float(found.scores_N[index]),
                landmarks_68=np.ascontiguousarray(landmarks_68),
                inter_ocular=inter_ocular_px(fit.points_478x3),
                yaw=head_pose(fit.transform_4x4)[0],
            )
        )
    return crops


def fill_small_holes(mask_HW: Mask, share: float = HOLE_SHARE) -> Mask:
    """The mask without its small holes, bool (H, W).

    A fade towards a hole of one pixel would let the old eye show through the new face.

    Args:
        mask_HW: (H, W) bool.
        share: largest area of a hole that is filled, as a share of the mask's area.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask_HW).astype(np.uint8), connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    small = stats[:, cv2.CC_STAT_AREA] <= share * mask_HW.sum()
    small[np.unique(border)] = False  # open to the outside: no hole
    return mask_HW | small[labels]
