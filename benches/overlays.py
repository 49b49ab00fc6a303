"""What the annotation finds in the two public-domain portraits, drawn: `python -m benches.overlays`.

Landmarks, parsing and APPLE's condition image of Eileen Collins (NASA, in scikit-image) and Grace Hopper (US
Navy, in matplotlib), by the networks that come inside packages. The picture goes to benches/results.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image as PillowImage
from skimage import data

from models.faces.condition import ConditionRecipe, condition_image, condition_masks
from models.faces.detection import CenterFace, choose_face
from models.faces.images import Image
from models.faces.iris import iris_from_mesh
from models.faces.landmarks import head_pose, landmarks_68_from_mesh
from models.faces.mesh import FaceMesh
from models.faces.overlays import draw_landmarks, draw_parsing
from models.faces.parsing import PersonSegmenter, parsing_from_mesh, visible_face_mask
from resources.weights.resolve import resolve

RESULT = Path(__file__).parent / "results" / "overlays.jpg"
PANEL = (380, 440)
"""Width and height of one picture, px."""


def portraits() -> dict[str, Image]:
    """The two portraits, uint8 RGB."""
    hopper = PillowImage.open(Path(mpl.get_data_path(), "sample_data", "grace_hopper.jpg"))
    return {"Eileen Collins": data.astronaut(), "Grace Hopper": np.asarray(hopper.convert("RGB"))}


def overlays(image: Image, detector: CenterFace, mesh: FaceMesh, segmenter: PersonSegmenter) -> Image:
    """Landmarks, parsing and condition image of one portrait, side by side, cut to the head."""
    found = detector.detect(image)
    chosen = choose_face(found, "largest")
    if chosen is None:
        raise RuntimeError("no face found in a portrait that has one")
    fit = mesh.fit(image, found.boxes_N4[chosen])
    if fit is None:
        raise RuntimeError("no mesh could be fitted to a portrait")
    points = landmarks_68_from_mesh(fit.points_478x3)[:, :2]
    person = segmenter.segment_with_face(image, fit.points_478x3)
    parsing = parsing_from_mesh(fit.points_478x3, person, image.shape[:2])
    face, glasses = condition_masks(parsing, visible_face_mask(parsing, person))
    iris = iris_from_mesh(fit.points_478x3)
    condition = condition_image(image, face, glasses, points, iris, ConditionRecipe())
    yaw, pitch, roll = head_pose(fit.transform_4x4)
    print(
        f"{len(found)} face(s), score {found.scores_N[chosen]:.2f}, yaw {yaw:.1f}, pitch {pitch:.1f}, "
        f"roll {roll:.1f} degrees"
    )
    left, top, right, bottom = found.boxes_N4[chosen].astype(int)
    margin = int(0.6 * (right - left))
    rows, columns = slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)
    panels = [draw_landmarks(image, points), draw_parsing(image, parsing), condition]
    return np.concatenate([cv2.resize(panel[rows, columns], PANEL) for panel in panels], axis=1)


def main() -> None:
    """Draw both portraits and write the picture."""
    detector = CenterFace(resolve("centerface").path)
    mesh = FaceMesh(resolve("face_landmarker").path)
    segmenter = PersonSegmenter(resolve("selfie_segmenter").path)
    strips = []
    for name, image in portraits().items():
        print(name, end=": ")
        strips.append(overlays(np.ascontiguousarray(image), detector, mesh, segmenter))
    PillowImage.fromarray(np.concatenate(strips)).save(RESULT, quality=85)
    print(RESULT)


if __name__ == "__main__":
    main()
