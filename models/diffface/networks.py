"""Denoiser and experts from their files to a swapper: of the rendered world, or as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.diffface.checkpoint import load_denoiser, load_published_denoiser
from models.diffface.experts.expert import Expert
from models.diffface.experts.gaze import GazeExpert
from models.diffface.experts.gaze_network import load_gaze_network
from models.diffface.experts.identity import IdentityExpert
from models.diffface.experts.parsing import FaceParsing, ParsingExpert
from models.diffface.experts.pixel import PixelExpert
from models.diffface.roles import NETWORK_ROLES, NetworksName
from models.diffface.schedule import linear_schedule
from models.diffface.swapper import DiffFaceSwapper
from models.diffface.world_gaze import load_world_gaze
from models.diffface.world_parser import load_world_parser
from models.faces.bisenet import load_bisenet
from models.faces.images import Image, Points
from models.swap.identity_crop import CroppedFaceEncoder, face_encoder

WORLD_GUIDANCE = 1 / 16
"""Factor on the published weights at 32 px, where a pixel is a larger part of the face. A loss of the whole
picture pulls each of its pixels 64 times as hard as at 256 px, the ratio of areas. On 24 pairs of the
benchmark, with a denoiser of 2,000 steps, 1/64, 1/32, 1/16 and 1/8 gave rank-1 .21, .21, .33 and .33, and
19.4, 19.2, 18.4 and 16.7 dB in the face: 1/16 keeps most of the picture at the rank of 1/8."""


@dataclass(frozen=True)
class DiffFaceNetworks:
    """A swapper, and what it needs to be asked.

    Attributes:
        swapper: denoiser and all four experts on one device.
        encoder: the embedder whose numbers the denoiser takes.
        side: of the denoiser's pictures, px.
    """

    swapper: DiffFaceSwapper
    encoder: CroppedFaceEncoder
    side: int
    device: str

    def embed(self, images: Sequence[Image], landmarks: Sequence[Points]) -> NDArray[np.float32]:
        """Embed the face of each photograph, aligned; (N, D) of length 1.

        Args:
            images: uint8 (H, W, 3) of any size.
            landmarks: (68, 2) px of each, iBUG order.

        Raises:
            ValueError: landmarks that are not finite or all in one place.
        """
        crops = []
        for image, points_682 in zip(images, landmarks, strict=True):
            pixels_1HW3 = torch.tensor(image, device=self.device)[None]
            points_152 = torch.from_numpy(self.encoder.config.facts.five_points(points_682))[None]
            crops.append(
                self.encoder.crop(pixels_1HW3.permute(0, 3, 1, 2).float() / 255, points_152.to(self.device))
            )
        with torch.no_grad():
            embedded_ND = self.encoder.network(torch.cat(crops)).float()
        return functional.normalize(embedded_ND, dim=1).cpu().numpy()


def open_networks(name: NetworksName, files: Mapping[str, Path], device: str) -> DiffFaceNetworks:
    """Load the networks of a name.

    Args:
        name: which.
        files: path of every role of `NETWORK_ROLES[name]`.
        device: torch device, `cpu` or `cuda:<index>`.

    Raises:
        FileNotFoundError, WeightMismatch, NetworkFileError: a file is absent, or is another network's.
    """
    roles = NETWORK_ROLES[name]
    denoiser_file, embedder_file, parser_file, gaze_file = (files[role] for role in roles.all)
    if name == "world":
        denoiser = load_denoiser(denoiser_file)
        encoder = face_encoder("world", embedder_file, device=device)
        experts: list[Expert] = [
            # it never saw a face cut out
            IdentityExpert(encoder, surroundings="target"),
            ParsingExpert(FaceParsing(load_world_parser(parser_file, device))),
            GazeExpert(load_world_gaze(gaze_file, device), "box"),
            PixelExpert(),
        ]
    else:
        denoiser = load_published_denoiser(denoiser_file)
        encoder = face_encoder("simswap_arcface", embedder_file, device=device)
        experts = [
            IdentityExpert(encoder),
            ParsingExpert(FaceParsing.bisenet(load_bisenet(parser_file).to(device))),
            GazeExpert(load_gaze_network(gaze_file).to(device)),
            PixelExpert(),
        ]
    scale = WORLD_GUIDANCE if name == "world" else 1.0
    swapper = DiffFaceSwapper(denoiser.to(device), linear_schedule(), experts, scale)
    return DiffFaceNetworks(swapper, encoder, denoiser.config.image_size, device)
