"""What a swap by DiffFace costs: operations counted on the real networks, without weights.

A guided step is a pass forward and one back to the picture through the denoiser and every expert that speaks;
weights are frozen, so that a pass back is about as much as one forward. Views and crops are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from models.diffface.config import published, tiny
from models.diffface.denoiser import Denoiser
from models.diffface.experts.gaze_network import GazeNetwork
from models.diffface.roles import NetworksName
from models.diffface.settings import DiffFaceSettings
from models.diffface.world_gaze import WorldGaze
from models.diffface.world_parser import WorldParser
from models.faces.bisenet import BiSeNet
from models.identity.simswap_arcface import SimSwapArcFace
from models.identity.world_embedder import WorldNetwork
from models.swap.cost_counting import count, on_meta, parameter_count, zeros

EYES = 2
Call = Callable[[Tensor], Tensor]


@cache
def guided_passes(name: NetworksName) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Operations of a pass forward and back to the picture through each network, and their parameters.

    The networks are `denoiser`, `identity` (one view), `parsing` and `gaze` (one eye), for one swap.
    """
    world = name == "world"
    config = tiny() if world else published()
    side = config.image_size
    gaze = cast(GazeNetwork, on_meta(WorldGaze if world else GazeNetwork))
    parser, parsed = (WorldParser, side) if world else (BiSeNet, 512)
    encoder, embedded = (WorldNetwork, 64) if world else (SimSwapArcFace, 112)
    denoiser = on_meta(lambda: Denoiser(config))
    at, identity = zeros(1, dtype=torch.long), zeros(1, config.identity_dim)
    networks = {"denoiser": denoiser, "identity": on_meta(encoder), "parsing": on_meta(parser), "gaze": gaze}
    calls: dict[str, tuple[Call, tuple[int, ...]]] = {
        "denoiser": (lambda x: denoiser(x, at, identity), (1, 3, side, side)),
        "identity": (networks["identity"], (1, 3, embedded, embedded)),
        "parsing": (networks["parsing"], (1, 3, parsed, parsed)),
        "gaze": (gaze.gaze, (1, 1, gaze.config.height, gaze.config.width)),
    }
    return (
        {part: _there_and_back(networks[part], *given) for part, given in calls.items()},
        {part: parameter_count(network) for part, network in networks.items()},
    )


def swap_flops(name: NetworksName, settings: DiffFaceSettings) -> tuple[float, str]:
    """Operations of all repeats of one pair, and what they are in words."""
    passes, _ = guided_passes(name)
    steps = settings.sampled_steps
    spoken = {
        "denoiser": steps,
        "identity": steps * settings.aug_num * bool(settings.loss_weight),
        "parsing": steps * bool(settings.expert_weights.parsing),
        "gaze": EYES * sum(bool(settings.expert_weights.gaze_at(index)) for index in range(steps)),
    }
    flops = settings.iterations_num * sum(passes[part] * times for part, times in spoken.items())
    guided = f"{steps} guided steps, forward and back; {settings.aug_num} views for the identity"
    return flops, f"{settings.iterations_num} repeats of {guided}"


def _there_and_back(network: nn.Module, call: Call, shape: tuple[int, ...]) -> int:
    network.requires_grad_(requires_grad=False)
    x = zeros(*shape).requires_grad_()

    def work() -> object:
        return torch.autograd.grad(call(x).sum(), x)

    return count(work, [*network.parameters(), *network.buffers(), x]).flops
