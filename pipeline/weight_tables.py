"""Tables of tensor names and shapes of published files: `python -m pipeline.weight_tables` writes them.

They come from our own networks at full size on the meta device, under the names that the published files use.
`orchard weights verify` compares files with them; a test holds the committed tables equal to the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from models.aesthetics.clip_network import ClipAesthetics
from models.diffface.checkpoint import IDENTITY_PREFIX
from models.diffface.config import published
from models.diffface.denoiser import Denoiser
from models.faces.bisenet import BiSeNet
from models.faces.deeplab import MMSEG_PREFIXES, DeepLabV3Plus, mmseg_key
from models.faces.reconstruction.network import BACKBONES, BackboneName, ReconstructionNet
from models.identity import eva_clip, id_former
from models.identity.ir_se50 import IrSe50
from models.identity.simswap_arcface import SimSwapArcFace
from models.metrics.inception import FidInception
from models.metrics.lpips import LayerWeights, VggFeatures
from models.metrics.protocol_sets import CLIP_VIT_B32
from models.swap.config import flux_krea
from models.swap.identity_attention import identity_attention_layers
from resources.weights import tables
from resources.weights.tables import Shapes, write_table


def all_tables() -> dict[str, Shapes]:
    """Every table by name, freshly made. Takes about a second and no memory for weights."""
    with torch.device("meta"):
        return {name: make() for name, make in MAKERS.items()}


def _shapes(network: nn.Module, prefix: str = "") -> Shapes:
    return {f"{prefix}{name}": tuple(value.shape) for name, value in network.state_dict().items()}


def _reconstruction(backbone: BackboneName) -> Shapes:
    return _shapes(ReconstructionNet(BACKBONES[backbone]))


def _visible_face() -> Shapes:
    """Names as in MMSegmentation: ours, traced back."""
    return {_mmseg_name(name): shape for name, shape in _shapes(DeepLabV3Plus()).items()}


def _mmseg_name(ours: str) -> str:
    parts = {"0": "conv", "1": "bn"}
    halves = {"0": "depthwise_conv", "1": "pointwise_conv"}
    for theirs, prefix in MMSEG_PREFIXES:
        if not ours.startswith(prefix):
            continue
        rest = ours.removeprefix(prefix).split(".")
        if theirs not in ("backbone.", "decode_head.conv_seg."):
            # from the end: parameter, convolution or normalisation, and in separable ones which of two
            rest[-2] = parts[rest[-2]]
            outer = len(rest) - 3
            indexed = theirs.endswith(("aspp_modules.", "sep_bottleneck."))
            if outer >= (1 if indexed else 0):
                rest[outer] = halves[rest[outer]]
        found = theirs + ".".join(rest)
        if mmseg_key(found) != ours:
            raise ValueError(f"{ours} was traced back to {found}, which is {mmseg_key(found)}")
        return found
    raise ValueError(f"{ours} belongs to no part of {[prefix for _, prefix in MMSEG_PREFIXES]}")


def _pulid_flux() -> Shapes:
    config = flux_krea()
    sizes = config.transformer
    width = sizes.num_attention_heads * sizes.attention_head_dim
    attention = identity_attention_layers(width, sizes.num_layers, sizes.num_single_layers, config.identity)
    encoder = _shapes(id_former.IdFormer(), id_former.PREFIX)
    return encoder | _shapes(attention, id_former.ATTENTION_PREFIX)


def _adm_unet() -> Shapes:
    denoiser = _shapes(Denoiser(published()))
    return {name: shape for name, shape in denoiser.items() if not name.startswith(IDENTITY_PREFIX)}


MAKERS: Mapping[str, Callable[[], Shapes]] = {
    "reconstruction_resnet50": lambda: _reconstruction("resnet50"),
    "reconstruction_mobilenet": lambda: _reconstruction("mobilenet_v3_large"),
    "face_parser": lambda: _shapes(BiSeNet()),
    "visible_face": _visible_face,
    "clip_vit_l14": lambda: _shapes(ClipAesthetics().clip),
    "clip_vit_b32": lambda: _shapes(ClipAesthetics(CLIP_VIT_B32).clip),
    "fid_inception": lambda: _shapes(FidInception()),
    "aesthetic_head": lambda: _shapes(ClipAesthetics().mlp),
    "aesthetic_head_ava": lambda: _shapes(ClipAesthetics().mlp),
    "eva_clip": lambda: _shapes(eva_clip.EvaClipVision(), eva_clip.PREFIX),
    "pulid_flux": _pulid_flux,
    "simswap_arcface": lambda: _shapes(SimSwapArcFace()),
    "diffface_unet": lambda: _shapes(Denoiser(published())),
    "adm_unet": _adm_unet,
    "ir_se50": lambda: _shapes(IrSe50()),
    "vgg16": lambda: _shapes(VggFeatures()),
    "lpips_vgg": lambda: _shapes(LayerWeights()),
}
"""How each table is made."""


def main() -> None:
    """Write every table beside `resources/weights/tables.py`."""
    folder = Path(tables.__file__).with_name("tables")
    folder.mkdir(exist_ok=True)
    for name, shapes in all_tables().items():
        print(write_table(folder, name, shapes), len(shapes))


if __name__ == "__main__":
    main()
