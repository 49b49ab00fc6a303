"""What the doctor tries in a process of its own, since a missing library may end the process that tries it.

Run as `python -m pipeline.doctor_probes` with a JSON list of jobs on standard input. Every job's outcome goes
to standard output as one line at once; so when the process dies or hangs, the first job without an outcome
did it. Lines of ours start with `MARKER`, since libraries print as well.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

MARKER = "orchard-probe "


def import_module(module: str) -> str:
    """Import a module."""
    importlib.import_module(module)
    return "imported"


def face_landmarker(path: str) -> str:
    """Create MediaPipe's FaceLandmarker on the real file and run it on a blank picture."""
    import mediapipe as mp
    import numpy as np
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=path), num_faces=1)
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        blank = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.zeros((256, 256, 3), np.uint8))
        faces = len(landmarker.detect(blank).face_landmarks)
    if faces:
        raise RuntimeError(f"found {faces} faces in a blank picture")
    return "loaded and ran: no face in a blank picture"


def selfie_segmenter(path: str) -> str:
    """Create MediaPipe's ImageSegmenter on the real file and run it on a blank picture."""
    import mediapipe as mp
    import numpy as np
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=path), output_confidence_masks=True
    )
    with vision.ImageSegmenter.create_from_options(options) as segmenter:
        blank = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.zeros((64, 48, 3), np.uint8))
        shape = segmenter.segment(blank).confidence_masks[0].numpy_view().shape[:2]
    if shape != (64, 48):
        raise RuntimeError(f"the mask of a 64x48 picture has shape {shape}")
    return "loaded and ran: a mask of the picture's size"


def centerface(path: str) -> str:
    """Read CenterFace with OpenCV and run it on a blank picture."""
    import cv2
    import numpy as np

    network = cv2.dnn.readNetFromONNX(path)
    network.setInput(cv2.dnn.blobFromImage(np.zeros((64, 64, 3), np.uint8)))
    outputs = network.forward(network.getUnconnectedOutLayersNames())
    shapes = sorted(tuple(output.shape) for output in outputs)
    # Heat map, size, offset and five key points on a grid of a quarter of the picture.
    if shapes != [(1, 1, 16, 16), (1, 2, 16, 16), (1, 2, 16, 16), (1, 10, 16, 16)]:
        raise RuntimeError(f"unexpected outputs {shapes}")
    return "loaded and ran: four output maps"


def dlib_face_recognition(path: str) -> str:
    """Read the whole file of the face recognition network."""
    size = len(Path(path).read_bytes())
    return f"read: {size:,} bytes"


def tiny_base(path: str) -> str:
    """Read the header and every tensor of the safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        numbers = sum(int(file.get_tensor(name).size) for name in names)
    if not names:
        raise RuntimeError("holds no tensor")
    return f"read: {len(names)} tensors, {numbers:,} numbers"


def flux_transformer(_: str) -> str:
    """Import the transformer class that the swap model builds on."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return f"{FluxTransformer2DModel.__module__}.{FluxTransformer2DModel.__name__} is there"


PROBES: Mapping[str, Callable[[str], str]] = {
    probe.__name__: probe
    for probe in (
        import_module,
        face_landmarker,
        selfie_segmenter,
        centerface,
        dlib_face_recognition,
        tiny_base,
        flux_transformer,
    )
}
"""Probes by name; each takes one string (module or path) and returns what it saw, or raises."""


def _say(**message: object) -> None:
    sys.stdout.write(MARKER + json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the jobs on standard input, each `[probe, argument]`, and report them on standard output."""
    for probe, argument in json.load(sys.stdin):
        try:
            _say(ok=True, detail=PROBES[probe](argument))
        except Exception as error:  # reported, and that is this program's whole purpose
            _say(ok=False, detail=f"{type(error).__name__}: {error}")
    # Destructors of half-loaded native libraries may abort; all that matters has been said.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
