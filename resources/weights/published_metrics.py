"""Published model files that only measure: no profile needs them to make anything.

A metric whose file is absent says so in the evaluation's tables.
"""

from __future__ import annotations

from pathlib import Path

from resources.weights.entries import Conversion, HubWeight, LocalWeight, WeightEntry

MEASURING: tuple[WeightEntry, ...] = (
    LocalWeight(
        role="fid_inception",
        path=Path("fid_inception", "pt_inception-2015-12-05-6726825d.pth"),
        conversion=Conversion(),
        how_to_get="download pt_inception-2015-12-05-6726825d.pth from the release fid_weights of "
        "mseitzer/pytorch-fid",
        licence="Apache-2.0",
        licence_url="https://github.com/mseitzer/pytorch-fid/blob/master/LICENSE",
        commercial_ok=True,
        trained_on="ImageNet (ILSVRC 2012), whose terms are non-commercial research",
        note="The Inception-v3 on which FID was defined. Its SHA-256 begins with the digits in its name.",
        table="fid_inception",
        ignored=("fc.*",),
    ),
    HubWeight(
        role="clip_vit_b32",
        repository="openai/clip-vit-base-patch32",
        file="pytorch_model.bin",
        conversion=Conversion(),
        licence="MIT (code)",
        commercial_ok=True,
        trained_on="about 400 million pairs of pictures and texts from the web",
        note="The features of `clip_frechet`. Its model card advises against deployed use.",
        table="clip_vit_b32",
        ignored=("text_model.*", "text_projection.*", "logit_scale", "*.position_ids"),
    ),
)
"""What the evaluation protocol measures with, besides the profiles' own files."""
