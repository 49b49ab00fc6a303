"""A small DiffFace of random weights over rendered faces: everything real but the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.diffface.blending import face_mask
from models.diffface.compat import CompatConfig
from models.diffface.config import DenoiserConfig
from models.diffface.denoiser import Denoiser
from models.diffface.experts.expert import Expert
from models.diffface.experts.gaze import GazeExpert
from models.diffface.experts.gaze_network import GazeNetwork, GazeNetworkConfig
from models.diffface.experts.identity import IdentityExpert
from models.diffface.experts.parsing import FaceParsing, ParsingExpert
from models.diffface.experts.pixel import PixelExpert
from models.diffface.randomness import Draw
from models.diffface.respacing import respaced
from models.diffface.sampling import Sampled, SamplingInputs, sample
from models.diffface.schedule import linear_schedule
from models.diffface.settings import DiffFaceSettings
from models.diffface.swap_inputs import SwapInputs
from models.diffface.swap_results import SwapResult
from models.diffface.swapper import DiffFaceSwapper
from models.diffface.world_parser import WorldParser, WorldParserConfig
from models.identity.loss_networks import FaceEncoderConfig
from models.identity.world_embedder import WorldNetwork
from models.swap.identity_crop import CroppedFaceEncoder
from models.worlds import render, sample_attributes, sample_identities

SIDE = 32
IDENTITY = 128


def filled(network: nn.Module, seed: int, scale: float = 0.1) -> nn.Module:
    """A network whose parameters that start at zero are noise, frozen and evaluating."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class SmallDiffFace:
    """Denoiser, experts and three pairs of 32 px."""

    denoiser: Denoiser
    embedder: CroppedFaceEncoder
    parsing: FaceParsing
    gaze_network: GazeNetwork
    inputs: SwapInputs
    codes_NHW: NDArray[np.uint8]

    def settings(self, **changes: Any) -> DiffFaceSettings:
        """Ten steps of which the last four are taken, on the CPU, once each."""
        base: dict[str, Any] = {
            "timestep_respacing": "10",
            "skip_timesteps": 6,
            "masking_threshold": 1,
            "iterations_num": 1,
            "aug_num": 2,
            "device": "cpu",
            "expert_weights": {"gaze_window": (0, 3)},
        }
        return DiffFaceSettings(**(base | changes))

    def experts(self) -> list[Expert]:
        return [
            IdentityExpert(self.embedder),
            ParsingExpert(self.parsing),
            GazeExpert(self.gaze_network),
            PixelExpert(),
        ]

    def swapper(self, experts: Sequence[Expert] | None = None) -> DiffFaceSwapper:
        given = self.experts() if experts is None else experts
        return DiffFaceSwapper(self.denoiser, linear_schedule(), given)

    def rows(self, rows: Sequence[int]) -> SwapInputs:
        """Some of the pairs, under their own numbers."""
        picked = list(rows)
        inputs = self.inputs
        assert inputs.target_landmarks is not None
        assert inputs.source_landmarks is not None
        return SwapInputs(
            inputs.sources_NHWC[picked],
            inputs.identity_ND[picked],
            inputs.targets_NHWC[picked],
            inputs.masks_NHW[picked],
            picked,
            [inputs.target_landmarks[row] for row in picked],
            [inputs.source_landmarks[row] for row in picked],
        )

    def swap(self, settings: DiffFaceSettings, rows: Sequence[int] = (0,), **options: Any) -> SwapResult:
        inputs = self.rows(rows)
        return self.swapper().swap(
            inputs.sources_NHWC,
            inputs.identity_ND,
            inputs.targets_NHWC,
            inputs.masks_NHW,
            settings,
            inputs.row_numbers,
            target_landmarks=inputs.target_landmarks,
            source_landmarks=inputs.source_landmarks,
            **options,
        )

    def sample(
        self, settings: DiffFaceSettings, rows: Sequence[int], experts: Sequence[Expert] | None = None
    ) -> Sampled:
        """What the loop gives for some rows, before it is rounded to pixels."""
        inputs = self.rows(rows)
        used = self.experts() if experts is None else experts
        pairs = [inputs.pair(place, torch.device("cpu")) for place in range(len(rows))]
        return sample(
            self.denoiser,
            respaced(linear_schedule(), settings.timestep_respacing),
            [(expert, [expert.prepare(pair, settings) for pair in pairs]) for expert in used],
            SamplingInputs(
                torch.stack([pair.target_3HW for pair in pairs]) * 2 - 1,
                torch.stack([pair.mask_1HW for pair in pairs]),
                torch.stack([pair.identity_D for pair in pairs]),
                [Draw(settings.seed, row, 0) for row in rows],
            ),
            settings,
        )


@pytest.fixture(scope="session")
def small_config() -> DenoiserConfig:
    """A denoiser of 8 px and two levels, the lower with attention, for embeddings of five numbers."""
    return DenoiserConfig(
        name="small",
        image_size=8,
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        num_head_channels=8,
        identity_dim=5,
        norm_groups=4,
    )


@pytest.fixture(scope="session")
def small_diffface() -> SmallDiffFace:
    """Random networks of the real kinds, three pairs of rendered faces, the second target with glasses."""
    torch.manual_seed(3)
    config = DenoiserConfig(
        name="test",
        image_size=SIDE,
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(16,),
        num_head_channels=8,
        identity_dim=IDENTITY,
        norm_groups=4,
    )
    denoiser = filled(Denoiser(config), 1, 0.02)
    assert isinstance(denoiser, Denoiser)
    world = filled(WorldNetwork((8, 16, 16)), 2)
    parser = filled(WorldParser(WorldParserConfig(widths=(8, 8), merged_width=8, top_width=8)), 3)
    assert isinstance(parser, WorldParser)
    assert parser.head.bias is not None
    parser.head.bias.zero_()
    parser.head.weight *= 10  # classes that change from pixel to pixel
    gaze = GazeNetwork(
        GazeNetworkConfig(
            nstack=2, nfeatures=8, nlandmarks=6, height=24, width=40, levels=2, stem_width=8, wide_width=8,
            gaze_hidden=16,
        )
    )  # fmt: skip
    gaze.eval().requires_grad_(requires_grad=False)
    attributes = sample_attributes(21, 6).replace(
        crop=0.0, glasses=np.array([0.0, 0, 0, 0, 1, 0]), yaw=0.1, blink=0.0, occluder=0.0
    )
    faces = render(sample_identities(21, 6), attributes, SIDE)
    identity = np.random.default_rng(5).standard_normal((3, IDENTITY)).astype(np.float32)
    inputs = SwapInputs(
        faces.images_NHWC[:3],
        identity,
        faces.images_NHWC[3:],
        face_mask(faces.parsing_NHW[3:], CompatConfig()),
        (0, 1, 2),
        list(faces.landmarks_68_N682[3:]),
        list(faces.landmarks_68_N682[:3]),
    )
    encoder = CroppedFaceEncoder(lambda x_B3HW: world(x_B3HW * 2 - 1), FaceEncoderConfig(network="world"))
    return SmallDiffFace(denoiser, encoder, FaceParsing(parser), gaze, inputs, faces.parsing_NHW[3:])
