"""Published model files of the two swappers: FLUX and its adapters, losses, DiffFace's networks.

Sizes, digests and licences are given where the origin states them. None of these files is ever in the
repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resources.weights.entries import Conversion, HubFolderWeight, HubWeight, LocalWeight, WeightEntry

_TRANSFORMER = ("transformer/*.json", "transformer/*.safetensors")
_CODEC = ("vae/*.json", "vae/*.safetensors")
_TEXT = ("text_encoder/*", "text_encoder_2/*", "tokenizer/*", "tokenizer_2/*")
_FLUX_DATA = "unstated pictures from the web"
_WHOLE_MODULE = (
    "take a plain state dict of the same weights instead of the whole pickled module, such as "
    "simswap_arcface.pth of datvtn/simswap"
)


def _flux(role: str, *, repository: str, **facts: Any) -> tuple[HubFolderWeight, ...]:
    """The three parts of a FLUX repository. They are roles of their own: few processes need all of them."""
    parts = (
        (role, _TRANSFORMER, "The transformer: about 24 GB in bfloat16."),
        (f"{role}_codec", _CODEC, "The autoencoder: all that `latents` needs."),
        (f"{role}_text", _TEXT, "CLIP-L and T5-XXL, about 10 GB; `prompt_embeddings` alone reads them."),
    )
    return tuple(
        HubFolderWeight(
            role=name, repository=repository, files=files, note=note, trained_on=_FLUX_DATA, **facts
        )
        for name, files, note in parts
    )


SWAPPING: tuple[WeightEntry, ...] = (
    *_flux(
        "flux_krea",
        repository="black-forest-labs/FLUX.1-Krea-dev",
        licence="FLUX.1 [dev] Non-Commercial License",
        licence_url="https://huggingface.co/black-forest-labs/FLUX.1-Krea-dev",
        commercial_ok=False,
        gate="acceptance of its licence on the hub, with a login",
    ),
    *_flux(
        "flux_schnell",
        repository="black-forest-labs/FLUX.1-schnell",
        licence="Apache-2.0",
        commercial_ok=True,
        gate="acceptance of its terms on the hub, with a login",
    ),
    LocalWeight(
        role="schnell_identity",
        path=Path("schnell_identity", "identity.safetensors"),
        how_to_get="nobody has published identity attention for FLUX.1-schnell with SFace: train "
        "`identity_encoder` and `identity_attention` of its model yourself and write them with "
        "`models.swap.flux_base.save_identity`",
        licence="yours",
        commercial_ok=True,
        trained_on="your own data",
        note="Without it flux-schnell annotates and encodes, and neither trains nor swaps.",
    ),
    LocalWeight(
        role="simswap_arcface",
        path=Path("simswap_arcface", "simswap_arcface.pth"),
        conversion=Conversion(way_out=_WHOLE_MODULE),
        how_to_get="download simswap_arcface.pth, the plain state dict, from datvtn/simswap",
        licence="none stated (SimSwap: non-commercial research)",
        commercial_ok=False,
        trained_on="photographs derived from MS-Celeb-1M, which was withdrawn",
        note="The identity loss of APPLE's teacher and the identity network of DiffFace; 52,193,215 numbers.",
        table="simswap_arcface",
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
        note="APPLE's other identity loss and the measure of REFace's evaluation.",
        table="ir_se50",
    ),
    HubWeight(
        role="vgg16",
        repository="timm/vgg16.tv_in1k",
        file="model.safetensors",
        licence="BSD-3-Clause",
        licence_url="https://huggingface.co/timm/vgg16.tv_in1k",
        commercial_ok=True,
        trained_on="ImageNet (ILSVRC 2012), whose terms are non-commercial research",
        note="torchvision's VGG16 as safetensors, the features of LPIPS; its classifier is not read.",
        table="vgg16",
        ignored=("classifier.*", "pre_logits.*", "head.*"),
    ),
    LocalWeight(
        role="lpips_vgg",
        path=Path("lpips_vgg", "vgg.pth"),
        size=7289,
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        conversion=Conversion(),
        how_to_get=(
            "take lpips/weights/v0.1/vgg.pth from richzhang/PerceptualSimilarity or its package lpips 0.1.4"
        ),
        licence="BSD-2-Clause",
        licence_url="https://github.com/richzhang/PerceptualSimilarity/blob/master/LICENSE",
        commercial_ok=True,
        trained_on="BAPPS: people's judgements of distorted patches of photographs",
        note="One weight per channel of five layers of VGG16.",
        table="lpips_vgg",
    ),
    LocalWeight(
        role="diffface_unet",
        path=Path("diffface_unet", "Model.pt"),
        conversion=Conversion(),
        how_to_get=(
            "take Model.pt out of checkpoints.zip, which a fork's README links; the authors' own link is "
            "dead and no hub has the file"
        ),
        licence="CC-BY-NC-4.0",
        licence_url="https://creativecommons.org/licenses/by-nc/4.0/",
        commercial_ok=False,
        trained_on="FFHQ, whose photographs carry licences of their own",
        note="DiffFace's denoiser, a plain state dict of 554,388,998 numbers.",
        table="diffface_unet",
    ),
    LocalWeight(
        role="adm_unet",
        path=Path("adm_unet", "256x256_diffusion_uncond.pt"),
        size=2_211_383_297,
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        conversion=Conversion(),
        how_to_get="download 256x256_diffusion_uncond.pt from the links in openai/guided-diffusion's README",
        licence="MIT (code); none stated for the weights",
        licence_url="https://github.com/openai/guided-diffusion/blob/main/LICENSE",
        commercial_ok=False,
        trained_on="ImageNet (ILSVRC 2012), whose terms are non-commercial research",
        note="The same network without identity, from which training of DiffFace's denoiser may start.",
        table="adm_unet",
    ),
    LocalWeight(
        role="gaze_estimator",
        path=Path("gaze_estimator", "GazeEstimator.pt"),
        conversion=Conversion(inside=("model_state_dict",)),
        how_to_get="take GazeEstimator.pt out of checkpoints.zip, as for diffface_unet",
        licence="none stated: its origin, david-wb/gaze-estimation, has no licence file",
        commercial_ok=False,
        trained_on="UnityEyes, rendered eyes, as far as is known",
        note="The stacked hourglass of DiffFace's gaze expert, 2,567,432 numbers.",
    ),
)
"""What the profiles `flux-krea` and `flux-schnell` swap with, and DiffFace's parts."""
