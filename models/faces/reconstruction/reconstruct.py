"""Photographs to 3D landmarks and pose: crops, the network, geometry, and back to the photographs' pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from models.faces.images import Image, Points
from models.faces.network_inputs import device_of, image_batch
from models.faces.reconstruction.bfm import FaceModel
from models.faces.reconstruction.coefficients import split_coefficients
from models.faces.reconstruction.five_points import CROP_SIZE, FivePointAlignment
from models.faces.reconstruction.geometry import FaceGeometry, pose_degrees
from models.faces.reconstruction.network import ReconstructionNet


@dataclass(frozen=True)
class FaceReconstruction:
    """One reconstructed face; everything float32.

    Landmarks are (K, 3): x and y in pixels of the photograph, then the depth in the same scale (smaller is
    nearer the camera, zero at the head's origin). Contour points of all but the silhouette set follow their
    vertices, hidden or not.

    Attributes:
        coefficients_257: see `coefficients.split_coefficients`.
        landmarks_68: iBUG order.
        landmarks_106: likewise for 106 points.
        landmarks_106_silhouette: the 106 with their contour on the visible outline.
        landmarks_134: likewise for 134 points.
        pose_3: yaw, pitch and roll in degrees; signs as in `models.faces.landmarks.head_pose`.
        alignment_2x3: the transform from the photograph to the crop.
    """

    coefficients_257: Points
    landmarks_68: Points
    landmarks_106: Points
    landmarks_106_silhouette: Points
    landmarks_134: Points
    pose_3: Points
    alignment_2x3: Points


LANDMARK_SETS = tuple(
    field.name for field in fields(FaceReconstruction) if field.name.startswith("landmarks_")
)


class FaceReconstructor:
    """3DDFA-V3 for batches of photographs; runs where the network is.

    Args:
        network: from `network.load_reconstruction_net`.
        model: the user's face model, from `bfm.load_face_model`.
    """

    def __init__(self, network: ReconstructionNet, model: FaceModel) -> None:
        self._network = network.eval()
        self._device = device_of(network)
        self._geometry = FaceGeometry(model).to(self._device)

    def reconstruct(
        self, images: Sequence[Image], alignments: Sequence[FivePointAlignment]
    ) -> list[FaceReconstruction | None]:
        """Reconstruct one face of each photograph.

        Args:
            images: uint8 RGB (H, W, 3), of any sizes; they share one pass through the network.
            alignments: from `five_points.align_five_points`, one for each photograph.

        Returns:
            one result per photograph, None where the network puts the face behind the camera.

        Raises:
            ValueError: another number of alignments than photographs, or no photograph.
        """
        if len(images) != len(alignments):
            raise ValueError(f"{len(images)} photographs came with {len(alignments)} alignments")
        crops = [alignment.crop(image) for image, alignment in zip(images, alignments, strict=True)]
        crops_B3HW = image_batch(crops, (CROP_SIZE, CROP_SIZE), self._device)
        with torch.inference_mode():
            rows_B257 = self._network(crops_B3HW)
            coefficients = split_coefficients(rows_B257)
            landmarks = self._geometry(coefficients)
            poses_B3 = pose_degrees(coefficients.angles_B3)
        in_front_B = landmarks.in_front_B.tolist()
        found = {name: getattr(landmarks, name).cpu().numpy() for name in LANDMARK_SETS}
        rows = rows_B257.cpu().numpy()
        return [
            FaceReconstruction(
                coefficients_257=rows[index],
                pose_3=poses_B3[index],
                alignment_2x3=alignment.matrix_2x3,
                **{name: _in_photo(values[index], alignment) for name, values in found.items()},
            )
            if in_front_B[index]
            else None
            for index, alignment in enumerate(alignments)
        ]


def _in_photo(landmarks_K3: NDArray[np.float32], alignment: FivePointAlignment) -> Points:
    """Landmarks of the crop in pixels of the photograph."""
    depth_K1 = landmarks_K3[:, 2:] / alignment.scale
    return np.concatenate([alignment.to_photo(landmarks_K3[:, :2]), depth_K1], axis=1).astype(np.float32)
