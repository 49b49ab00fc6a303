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

from pipeline.doctor_networks import (
    adm_unet,
    compiler,
    diffface_unet,
    gaze_estimator,
    ran,
    tiny_denoiser,
    world_gaze,
    world_parser,
)

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


def world_embedder(path: str) -> str:
    """Load the world's embedder and run it on a black chip."""
    from models.identity.world_embedder import load_world_network
    from models.identity.world_embedder_sizes import WORLD_CHIP_SIZE

    return ran(load_world_network(path), WORLD_CHIP_SIZE)


def tiny_base(path: str) -> str:
    """Read the header and every tensor of the safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        numbers = sum(int(file.get_tensor(name).size) for name in names)
    if not names:
        raise RuntimeError("holds no tensor")
    return f"read: {len(names)} tensors, {numbers:,} numbers"


def reconstruction_resnet50(path: str) -> str:
    """Load 3DDFA-V3's network and run it on a black crop."""
    from models.faces.reconstruction.network import load_reconstruction_net

    return ran(load_reconstruction_net(path, "resnet50"), 224)


def reconstruction_mobilenet(path: str) -> str:
    """Load 3DDFA-V3's small network and run it on a black crop."""
    from models.faces.reconstruction.network import load_reconstruction_net

    return ran(load_reconstruction_net(path, "mobilenet_v3_large"), 224)


def face_model(path: str) -> str:
    """Read the converted face model and check its arrays."""
    from models.faces.reconstruction.bfm import load_face_model

    return f"read: {load_face_model(path).vertex_count:,} vertices"


def face_parser(path: str) -> str:
    """Load BiSeNet and run it on a small black picture."""
    from models.faces.bisenet import load_bisenet

    return ran(load_bisenet(path), 64)


def visible_face(path: str) -> str:
    """Load DeepLabV3+ and run it on a small black picture."""
    from models.faces.deeplab import load_deeplab

    return ran(load_deeplab(path), 64)


def clip_vit_l14(path: str) -> str:
    """Load CLIP's image tower and run it on a black picture."""
    from models.aesthetics.clip_network import ClipAesthetics, clip_name
    from models.weight_files import load_weights

    network = ClipAesthetics()
    load_weights(network.clip, Path(path, "model.safetensors"), clip_name)
    return ran(network.embed, 224)


def aesthetic_head(path: str) -> str:
    """Load the aesthetic head and fold it into one map."""
    from models.aesthetics.clip_network import AestheticHead, fold
    from models.weight_files import load_weights

    head = AestheticHead()
    load_weights(head, path)
    return f"loaded and folded to {fold(head).weight_E.numel()} weights"


def eva_clip(path: str) -> str:
    """Load EVA-CLIP's image tower and run it on a black picture."""
    from models.identity.eva_clip import load_eva_clip

    tower = load_eva_clip(path)
    return ran(lambda pictures: tower(pictures).embedding_BE, tower.config.image_size)


def pulid_flux(path: str) -> str:
    """Load PuLID's ID encoder and make the tokens of "no identity"."""
    import torch

    from models.identity.id_former import load_id_former
    from models.identity.network_sizes import EvaClipConfig

    with torch.inference_mode():
        tokens = load_id_former(path).unconditional(EvaClipConfig().tokens)
    return f"loaded and ran: tokens {tuple(tokens.shape)}"


def antelopev2(path: str) -> str:
    """Open both networks of antelopev2 and run them on blank pictures."""
    import numpy as np

    from models.identity.face_analysis import LocalFaceAnalysis

    analysis = LocalFaceAnalysis(path)
    faces = len(analysis.detect(np.zeros((256, 256, 3), np.uint8)))
    size = analysis.embed_chips(np.zeros((1, 112, 112, 3), np.uint8)).shape[1]
    if faces:
        raise RuntimeError(f"found {faces} faces in a blank picture")
    return f"loaded and ran: no face in a blank picture, embeddings of {size} numbers"


def sface(path: str) -> str:
    """Read SFace with OpenCV and embed a blank chip."""
    from models.identity.sface import SFACE_EMBEDDING_SIZE, SFaceEmbedder

    SFaceEmbedder(path)
    return f"loaded and ran: embeddings of {SFACE_EMBEDDING_SIZE} numbers"


def simswap_arcface(path: str) -> str:
    """Load SimSwap's ArcFace and embed a black picture."""
    from models.identity.simswap_arcface import load_simswap_arcface

    return ran(load_simswap_arcface(path), 112)


def ir_se50(path: str) -> str:
    """Load IR-SE50 and embed a black picture."""
    from models.identity.ir_se50 import load_ir_se50

    return ran(load_ir_se50(path), 112)


def vgg16(path: str) -> str:
    """Load VGG16's convolutions and run them on a small black picture."""
    from models.metrics.lpips import load_vgg_features

    features = load_vgg_features(path)
    return ran(lambda pictures: features(pictures)[-1], 64)


def lpips_vgg(path: str) -> str:
    """Load the weights of LPIPS's layers; none may be negative, or a distance could be."""
    from models.metrics.lpips import load_layer_weights

    values = list(load_layer_weights(path).parameters())
    if any(bool((value < 0).any()) for value in values):
        raise RuntimeError("holds a negative weight: no distance")
    return f"loaded: {sum(value.numel() for value in values)} weights of {len(values)} layers"


def flux_transformer(_: str) -> str:
    """Import the transformer class that the swap model builds on."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return f"{FluxTransformer2DModel.__module__}.{FluxTransformer2DModel.__name__} is there"


PROBES: Mapping[str, Callable[[str], str]] = {"aesthetic_head_ava": aesthetic_head} | {
    probe.__name__: probe
    for probe in (
        import_module,
        compiler,
        face_landmarker,
        selfie_segmenter,
        centerface,
        dlib_face_recognition,
        world_embedder,
        tiny_base,
        reconstruction_resnet50,
        reconstruction_mobilenet,
        face_model,
        face_parser,
        visible_face,
        clip_vit_l14,
        aesthetic_head,
        eva_clip,
        pulid_flux,
        antelopev2,
        sface,
        simswap_arcface,
        ir_se50,
        diffface_unet,
        adm_unet,
        gaze_estimator,
        tiny_denoiser,
        world_parser,
        world_gaze,
        vgg16,
        lpips_vgg,
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
