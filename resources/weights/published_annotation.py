"""Published model files of APPLE's preprocessing: reconstruction, parsing, aesthetics, identity.

Sizes, digests and licences are given where the origin states them. None of these files is ever in the
repository.
"""

from __future__ import annotations

from pathlib import Path

from resources.weights.entries import Conversion, HubFolderWeight, HubWeight, LocalWeight, WeightEntry

_RECONSTRUCTION = "Zidu-Wang/3DDFA-V3"
_RECONSTRUCTION_DATA = "web photographs of faces, as far as the paper says; derived from BFM-2009"
_UNSTATED = "none stated"
_AESTHETIC_HEAD = "https://github.com/christophschuhmann/improved-aesthetic-predictor"


def _aesthetic_head(role: str, file: str, size: int, sha256: str, data: str) -> LocalWeight:
    return LocalWeight(
        role=role,
        path=Path(role, file),
        size=size,
        sha256=sha256,
        conversion=Conversion(),
        how_to_get=f"download {file} from {_AESTHETIC_HEAD}",
        licence="Apache-2.0",
        licence_url=f"{_AESTHETIC_HEAD}/blob/main/LICENSE",
        commercial_ok=True,
        trained_on=data,
        table=role,
    )


ANNOTATION: tuple[WeightEntry, ...] = (
    HubWeight(
        role="reconstruction_resnet50",
        repository=_RECONSTRUCTION,
        repository_type="dataset",
        file="assets/net_recon.pth",
        conversion=Conversion(inside=("net_recon",)),
        licence=_UNSTATED,
        commercial_ok=False,
        trained_on=_RECONSTRUCTION_DATA,
        note="3DDFA-V3's coefficients from a 224 px crop. Its code is MIT; the weights name no licence.",
        table="reconstruction_resnet50",
    ),
    HubWeight(
        role="reconstruction_mobilenet",
        repository=_RECONSTRUCTION,
        repository_type="dataset",
        file="assets/net_recon_mbnet.pth",
        conversion=Conversion(inside=("net_recon",)),
        licence=_UNSTATED,
        commercial_ok=False,
        trained_on=_RECONSTRUCTION_DATA,
        note="The smaller backbone of 3DDFA-V3.",
        table="reconstruction_mobilenet",
    ),
    LocalWeight(
        role="face_model",
        path=Path("face_model", "face_model.npy"),
        conversion=Conversion(kind="face_model"),
        how_to_get=(
            "register for the Basel Face Model 2009 and take face_model.npy from 3DDFA-V3's assets; nobody "
            "may pass it on, so it is never pulled"
        ),
        licence="Basel Face Model 2009 (registered, internal, non-commercial research)",
        commercial_ok=False,
        gate="registration with the University of Basel",
        trained_on="3-D scans of 200 people (BFM-2009), expression basis of FaceWarehouse's kind",
        note="Derivatives are covered by its licence too.",
    ),
    LocalWeight(
        role="face_parser",
        path=Path("face_parser", "parsing_bisenet.pth"),
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        conversion=Conversion(),
        how_to_get="download parsing_bisenet.pth (or 79999_iter.pth) from the releases of facexlib",
        licence="MIT (code); none stated for the weights",
        commercial_ok=False,
        trained_on="CelebAMask-HQ, whose terms are non-commercial research",
        note="BiSeNet, 19 classes. DiffFace's FaceParser.pth is the same file.",
        table="face_parser",
    ),
    LocalWeight(
        role="visible_face",
        path=Path("visible_face", "deeplabv3plus_r101_512x512_face-occlusion-93ec6695.pth"),
        conversion=Conversion(inside=("state_dict",)),
        how_to_get="download the file from the repository occlusion-aware-face-segmentation",
        licence="CC0-1.0",
        commercial_ok=True,
        trained_on="CelebAMask-HQ faces with synthetic occluders (non-commercial photographs)",
        note="DeepLabV3+ R101; stands in for APPLE's deeplabv3_iter_27600.pth, which was never published.",
        table="visible_face",
        ignored=("auxiliary_head.*",),
    ),
    HubFolderWeight(
        role="clip_vit_l14",
        repository="openai/clip-vit-large-patch14",
        files=("model.safetensors", "config.json"),
        licence="MIT (code)",
        commercial_ok=True,
        trained_on="about 400 million pairs of pictures and texts from the web",
        note="Its model card advises against deployed use without testing for the purpose.",
        table="clip_vit_l14",
        ignored=("text_model.*", "text_projection.*", "logit_scale", "*.position_ids"),
    ),
    _aesthetic_head(
        "aesthetic_head",
        "sac+logos+ava1-l14-linearMSE.pth",
        3_714_759,
        "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        "ratings of SAC, LOGOS and AVA",
    ),
    _aesthetic_head(
        "aesthetic_head_ava",
        "ava+logos-l14-linearMSE.pth",
        3_714_759,
        "390a3aafaf3b37d57148f9b22f30556de38343064b7d915acfa80d3812b4c9ff",
        "ratings of AVA and LOGOS",
    ),
    HubWeight(
        role="eva_clip",
        repository="QuanSun/EVA-CLIP",
        file="EVA02_CLIP_L_336_psz14_s6B.pt",
        size=856_461_210,
        sha256="84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05",
        conversion=Conversion(keep="visual."),
        licence="MIT",
        licence_url="https://huggingface.co/QuanSun/EVA-CLIP",
        commercial_ok=True,
        trained_on="2 billion pairs of pictures and texts from the web",
        note="Only its picture tower is kept.",
        table="eva_clip",
        ignored=("*.freqs_cos", "*.freqs_sin"),
    ),
    HubWeight(
        role="pulid_flux",
        repository="guozinan/PuLID",
        file="pulid_flux_v0.9.1.safetensors",
        licence="Apache-2.0",
        licence_url="https://huggingface.co/guozinan/PuLID",
        commercial_ok=True,
        trained_on="unstated portraits; made for FLUX.1-dev, whose licence binds its use",
        note="The identity encoder and the 20 cross-attentions; 312 tensors.",
        table="pulid_flux",
    ),
    HubFolderWeight(
        role="antelopev2",
        repository="DIAMONIK7777/antelopev2",
        files=("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
        licence="InsightFace model licence (non-commercial research)",
        licence_url="https://github.com/deepinsight/insightface#license",
        commercial_ok=False,
        trained_on="WIDER FACE (detector); Glint360K, web photographs of 360,000 people (embedder)",
        note="Two of the pack's five networks. Embeddings that identify people are personal data.",
    ),
    LocalWeight(
        role="sface",
        path=Path("sface", "face_recognition_sface_2021dec.onnx"),
        how_to_get="download face_recognition_sface_2021dec.onnx from OpenCV's model zoo",
        licence="Apache-2.0",
        licence_url="https://github.com/opencv/opencv_zoo",
        commercial_ok=True,
        trained_on="unstated",
        note="Embeddings that identify people are personal data in many places.",
    ),
)
"""What the profile `flux-krea` annotates with, and permissive alternatives."""
