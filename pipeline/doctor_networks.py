"""The doctor's probes of DiffFace's networks, and how any network is tried once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def ran(network: Callable[[Any], Any], side: int) -> str:
    """Run a network on one black picture; the numbers must be finite."""
    import torch

    with torch.inference_mode():
        output = network(torch.zeros(1, 3, side, side))
    if not torch.isfinite(output).all():
        raise RuntimeError("gives values that are not finite")
    return f"loaded and ran: output {tuple(output.shape)}"


def compiler(kind: str) -> str:
    """Compile and run one line on a kind of device."""
    from models.numerics import require_compiler

    require_compiler(kind)
    return "compiled and ran"


def diffface_unet(path: str) -> str:
    """Load DiffFace's denoiser and run one step of noise."""
    from models.diffface.checkpoint import load_published_denoiser

    return _denoised(load_published_denoiser(path))


def adm_unet(path: str) -> str:
    """Load the denoiser without identity that training may start from, and run one step of noise."""
    from models.diffface.checkpoint import load_published_denoiser

    return _denoised(load_published_denoiser(path, without_identity=True))


def tiny_denoiser(path: str) -> str:
    """Load the world's denoiser and run one step of noise."""
    from models.diffface.checkpoint import load_denoiser

    return _denoised(load_denoiser(path))


def gaze_estimator(path: str) -> str:
    """Load DiffFace's gaze network and run it on a black eye."""
    from models.diffface.experts.gaze_network import load_gaze_network

    return _looked(load_gaze_network(path))


def world_gaze(path: str) -> str:
    """Load the world's gaze network and run it on a black eye."""
    from models.diffface.world_gaze import load_world_gaze

    return _looked(load_world_gaze(path))


def world_parser(path: str) -> str:
    """Load the world's parser and run it on a black picture."""
    from models.diffface.world_parser import load_world_parser

    return ran(load_world_parser(path), 32)


def _denoised(denoiser: Any) -> str:
    """Run a denoiser at the last of its steps on a grey picture of nobody."""
    import torch

    step, nobody = torch.tensor([0]), torch.zeros(1, denoiser.config.identity_dim)
    return ran(lambda pictures: denoiser(pictures, step, nobody), denoiser.config.image_size)


def _looked(network: Any) -> str:
    """Run a gaze network on one black eye; the numbers must be finite."""
    import torch

    gaze = network.gaze(torch.zeros(1, 1, network.config.height, network.config.width))
    if not torch.isfinite(gaze).all():
        raise RuntimeError("gives values that are not finite")
    return f"loaded and ran: gaze {tuple(gaze.shape)}"
