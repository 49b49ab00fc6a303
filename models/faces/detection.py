"""Face detection with CenterFace (Xu et al., "Joint Face Detection and Alignment Using Face as Point").

The network sees faces as points: a heat map of face centres at a quarter of the input resolution, and at
every centre the box size, a sub-cell offset and five key points. The weights are an ONNX file given by path;
OpenCV runs it, and the decoding below follows the paper's section on inference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from models.faces.choice import choose_faces
from models.faces.images import Image, Points, require_rgb

STRIDE = 4
"""Input pixels per heat-map cell (CenterFace, output stride R = 4)."""

INPUT_MULTIPLE = 32
"""The feature pyramid halves its input five times, so both sides must divide by 32."""

MINIMUM_LONG_SIDE = 320
"""Smaller images are enlarged to this long side; at stride 4 a face of 10 px would cover two or three
cells."""

OUTPUTS = ("537", "538", "539", "540")
"""Names of the graph's outputs: heat map, log scale, centre offset, key points."""

SECOND_LOOK_BORDER = 0.3
"""Border of a second look, as a share of the longer side: faces that fill the frame want one."""

NMS_IOU_THRESHOLD = 0.3
"""Overlap above which the weaker of two boxes is dropped."""


@dataclass(frozen=True)
class Detections:
    """Faces found in one image, strongest first.

    Attributes:
        boxes_N4: float32 (x0, y0, x1, y1) pixels of the image; a box may reach beyond the border.
        scores_N: float32 in 0..1.
        keypoints_N52: float32 pixels: eye on the image's left, eye on the image's right, nose tip, mouth
            corner on the image's left, mouth corner on the image's right.
    """

    boxes_N4: Points
    scores_N: Points
    keypoints_N52: Points

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.scores_N)


def network_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Network input (height, width) for an image: long side at most `long_side`, tiny images enlarged.

    Both sides are rounded to multiples of 32; the remaining change of aspect ratio is undone when decoding,
    because each axis is mapped back with its own factor.
    """
    longest = max(height, width)
    scale = min(1.0, long_side / longest)
    if longest < MINIMUM_LONG_SIDE:
        scale = min(MINIMUM_LONG_SIDE, long_side) / longest

    def rounded(side: int) -> int:
        return max(INPUT_MULTIPLE, round(side * scale / INPUT_MULTIPLE) * INPUT_MULTIPLE)

    return rounded(height), rounded(width)


class CenterFace:
    """CenterFace detector on OpenCV's network engine.

    Args:
        onnx_path: the published ONNX graph (input 1x3xHxW RGB 0..255).

    Raises:
        FileNotFoundError: there is no file at `onnx_path`.
        cv2.error: the file is not an ONNX graph.
    """

    def __init__(self, onnx_path: str | Path) -> None:
        if not Path(onnx_path).is_file():
            raise FileNotFoundError(f"no CenterFace ONNX file at {onnx_path}")
        self._network = cv2.dnn.readNetFromONNX(str(onnx_path))

    def detect(self, image: Image, *, score_threshold: float = 0.5, long_side: int = 960) -> Detections:
        """Find every face of an upright RGB image.

        An image in which nothing is found is looked at once more within a border of its own edge pixels:
        the network was trained on faces with surroundings.

        Args:
            image: uint8 (H, W, 3), RGB.
            score_threshold: heat-map value below which a cell is no face.
            long_side: larger images are reduced to this long side before the network sees them.
        """
        image = require_rgb(image)
        found = self._look(image, score_threshold, long_side)
        if len(found):
            return found
        border = round(SECOND_LOOK_BORDER * max(image.shape[:2]))
        bordered = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REPLICATE)
        found = self._look(require_rgb(bordered), score_threshold, long_side)
        return Detections(found.boxes_N4 - border, found.scores_N, found.keypoints_N52 - border)

    def _look(self, image: Image, score_threshold: float, long_side: int) -> Detections:
        """One pass of the network."""
        height, width = image.shape[:2]
        input_height, input_width = network_size(height, width, long_side)
        shrinks = input_width < width or input_height < height
        resized = cv2.resize(
            image, (input_width, input_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
        self._network.setInput(cv2.dnn.blobFromImage(resized))
        heat, log_scale, offset, keypoints = (np.asarray(out)[0] for out in self._network.forward(OUTPUTS))
        boxes_N4, scores_N, keypoints_N52 = decode(heat[0], log_scale, offset, keypoints, score_threshold)
        ratio = np.array([width / input_width, height / input_height], np.float32)
        boxes_N4 = boxes_N4 * np.tile(ratio, 2)
        keypoints_N52 = keypoints_N52 * ratio
        keep = _suppress(boxes_N4, scores_N, score_threshold)
        return Detections(boxes_N4[keep], scores_N[keep], keypoints_N52[keep])


def decode(
    heat_HW: Points,
    log_scale_2HW: Points,
    offset_2HW: Points,
    keypoints_10HW: Points,
    score_threshold: float,
) -> tuple[Points, Points, Points]:
    """Turn the four output maps into boxes, scores and key points in pixels of the network input.

    A cell (row, column) above the threshold is a face centred at `(column + offset_x + 0.5) * stride` with
    sides `exp(log_scale) * stride`; key points are fractions of the box counted from its top-left corner.
    All maps hold the vertical component before the horizontal one.

    Returns:
        boxes_N4, scores_N, keypoints_N52, before non-maximum suppression.
    """
    rows, columns = np.nonzero(heat_HW > score_threshold)
    scores_N = heat_HW[rows, columns]
    sides_N2 = np.exp(log_scale_2HW[::-1, rows, columns].T) * STRIDE
    cells_N2 = np.stack([columns, rows], axis=1) + offset_2HW[::-1, rows, columns].T + 0.5
    corners_N2 = cells_N2 * STRIDE - sides_N2 / 2
    boxes_N4 = np.concatenate([corners_N2, corners_N2 + sides_N2], axis=1)
    fractions_N52 = keypoints_10HW[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
    keypoints_N52 = corners_N2[:, None] + fractions_N52 * sides_N2[:, None]
    return boxes_N4.astype(np.float32), scores_N.astype(np.float32), keypoints_N52.astype(np.float32)


def _suppress(boxes_N4: Points, scores_N: Points, score_threshold: float) -> np.ndarray:
    """Indices that survive non-maximum suppression, strongest first."""
    rectangles = np.concatenate([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxes(rectangles.tolist(), scores_N.tolist(), score_threshold, NMS_IOU_THRESHOLD)
    indices = np.asarray(kept, dtype=np.intp).reshape(-1)
    return indices[np.argsort(-scores_N[indices], kind="stable")]


def choose_face(detections: Detections, policy: Literal["largest", "centre"] = "largest") -> int | None:
    """Index of the face a portrait is about, or None when nothing was found.

    Args:
        detections: what `CenterFace.detect` returned.
        policy: see `models.faces.choice.FaceChoice`.

    Raises:
        ValueError: an unknown policy.
    """
    chosen = choose_faces(detections.boxes_N4, policy)
    return chosen[0] if chosen else None
