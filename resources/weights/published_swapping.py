"""Published model files of the two swappers: FLUX and its adapters, losses, DiffFace's networks.

Sizes, digests and licences are given where the origin states them. None of these files is ever in the
repository.
"""

from __future__ import annotations

from pathlib import Path

from resources.weights.entries import Conversion, HubFolderWeight, LocalWeight, WeightEntry

_FLUX_FILES = (
    "transformer/*.json",
    "transformer/*.safetensors",
    "vae/*",
    "text_encoder/*",
    "text_encoder_2/*",
    "tokenizer/*",
    "tokenizer_2/*",
)
_FLUX_DATA = "unstated pictures from the web"
_WHOLE_MODULE = (
    "take a plain state dict of the same weights instead of the whole pickled module, such as "
    "simswap_arcface.pth of datvtn/simswap"
)

SWAPPING: tuple[WeightEntry, ...] = (
    HubFolderWeight(
        role="flux_krea",
        repository="black-forest-labs/FLUX.1-Krea-dev",
        files=_FLUX_FILES,
        licence="FLUX.1 [dev] Non-Commercial License",
        licence_url="https://huggingface.co/black-forest-labs/FLUX.1-Krea-dev",
        commercial_ok=False,
        gate="acceptance of its licence on the hub, with a login",
        trained_on=_FLUX_DATA,
        note="About 24 GB for the transformer alone in bfloat16.",
    ),
    HubFolderWeight(
        role="flux_schnell",
        repository="black-forest-labs/FLUX.1-schnell",
        files=_FLUX_FILES,
        licence="Apache-2.0",
        licence_url="https://huggingface.co/black-forest-labs/FLUX.1-schnell",
        commercial_ok=True,
        gate="acceptance of its terms on the hub, with a login",
        trained_on=_FLUX_DATA,
    ),
    LocalWeight(
        role="simswap_arcface",
        path=Path("simswap_arcface", "simswap_arcface.pth"),
        conversion=Conversion(way_out=_WHOLE_MODULE),
        how_to_get="download simswap_arcface.pth, the plain state dict, from datvtn/simswap",
        licence="none stated (SimSwap: non-commercial research)",
        commercial_ok=False,
        trained_on="photographs derived from MS-Celeb-1M, which was withdrawn",
        note="The identity loss of APPLE's teacher and the identity network of DiffFace.",
    ),
    LocalWeight(
        role="ir_se50",
        path=Path("ir_se50", "model_ir_se50.pth"),
        conversion=Conversion(),
        how_to_get="download model_ir_se50.pth from the files of Sanoojan/REFace",
        licence="CC-BY-NC-4.0",
        licence_url="https://creativecommons.org/licenses/by-nc/4.0/",
        commercial_ok=False,
        trained_on="MS-Celeb-1M, which was withdrawn",
    ),
    LocalWeight(
        role="diffface_unet",
        path=Path("diffface_unet", "Model.pt"),
        conversion=Conversion(),
        how_to_get="download Model.pt from the link in DiffFace's README",
        licence="CC-BY-NC-4.0",
        licence_url="https://creativecommons.org/licenses/by-nc/4.0/",
        commercial_ok=False,
        trained_on="FFHQ, whose photographs carry licences of their own",
    ),
    LocalWeight(
        role="gaze_estimator",
        path=Path("gaze_estimator", "GazeEstimator.pt"),
        conversion=Conversion(inside=("model_state_dict",)),
        how_to_get="download GazeEstimator.pt from the link in DiffFace's README",
        licence="none stated",
        commercial_ok=False,
        trained_on="UnityEyes, rendered eyes, as far as is known",
    ),
)
"""What the profiles `flux-krea` and `flux-schnell` swap with, and DiffFace's parts."""
