"""What the evaluation protocol can measure, and which model files that takes. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from models.identity.loss_networks import FaceEncoderConfig, LossNetworkName

JudgeName = LossNetworkName | Literal["sface"]
"""Encoders that can judge identity."""

MeasureName = Literal["identity", "attributes", "lpips", "fid_inception", "clip_frechet", "clip_frechet_l14"]
"""identity: `id_similarity_*`, `top_1_*` and `top_5_*` of every judge. attributes: `pose`, `expression` and
`gaze`. The others are metrics of that name."""

MEASURE_ROLES: Mapping[MeasureName, tuple[str, ...]] = MappingProxyType(
    {
        "lpips": ("vgg16", "lpips_vgg"),
        "fid_inception": ("fid_inception",),
        "clip_frechet": ("clip_vit_b32",),
        "clip_frechet_l14": ("clip_vit_l14",),
    }
)
"""Weight roles of a measure, where neither judges nor the annotation of the profile name them."""

SFACE = "sface"


def judge_role(judge: JudgeName) -> str:
    """Weight role of a judge's file."""
    return SFACE if judge == SFACE else FaceEncoderConfig(network=judge).facts.role
