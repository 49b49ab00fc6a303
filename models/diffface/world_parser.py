"""A small face parser for pictures of the procedural world: what BiSeNet is to photographs.

Fully convolutional, trained on rendered faces of 32 and 64 px with their exact classes
(`models.diffface.world_experts_training`). It says nothing about photographs of people.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from models.diffface.network_files import fill_network, read_network, save_network
from models.faces.constants import CLASS_NAMES
from models.swap.config import FrozenConfig

FORMAT = "orchard-world-parser-1"


class WorldParserConfig(FrozenConfig):
    """Sizes of the parser."""

    widths: tuple[int, ...] = Field(
        default=(16, 32, 56, 80), min_length=2, description="Channels of each level; the side halves between."
    )
    merged_width: int = Field(default=40, gt=0, description="Channels on the way back up.")
    top_width: int = Field(default=24, gt=0, description="Channels at the picture's own size.")
    classes: int = Field(default=len(CLASS_NAMES), gt=1, description="CelebAMask-HQ's classes.")

    @model_validator(mode="after")
    def _positive(self) -> WorldParserConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be 1 or more at every level")
        return self

    @property
    def multiple(self) -> int:
        """Sides of a picture are multiples of this."""
        return 2 ** (len(self.widths) - 1)


class Convolution(nn.Sequential):
    """A 3 x 3 convolution, batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class WorldParser(nn.Module):
    """Pictures to class logits at the same size: down level by level, and up again by bilinear steps."""

    def __init__(self, config: WorldParserConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WorldParserConfig()
        self.stem = Convolution(3, config.widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(Convolution(narrow, wide, stride=2), Convolution(wide, wide))
            for narrow, wide in itertools.pairwise(config.widths)
        )
        merged = [config.top_width, *[config.merged_width] * (len(config.widths) - 1)]
        self.lateral = nn.ModuleList(
            nn.Conv2d(width, to, 1) for width, to in zip(config.widths, merged, strict=True)
        )
        self.raise_ = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in itertools.pairwise(merged))
        self.smooth = nn.ModuleList(Convolution(width, width) for width in merged[:-1])
        self.head = nn.Conv2d(config.top_width, config.classes, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B, 19, H, W); differentiable.

        Args:
            images_B3HW: RGB in 0..1, sides multiples of `config.multiple` (8).

        Raises:
            ValueError: another shape.
        """
        height, width = images_B3HW.shape[-2:]
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3 or (height | width) % self.config.multiple:
            raise ValueError(
                f"expected pictures (B, 3, H, W) with sides of multiples of {self.config.multiple}, "
                f"got {tuple(images_B3HW.shape)}"
            )
        levels = [self.stem(images_B3HW * 2 - 1)]
        for down in self.down:
            levels.append(down(levels[-1]))
        merged = self.lateral[-1](levels[-1])
        for level in reversed(range(len(levels) - 1)):
            raised = functional.interpolate(
                self.raise_[level](merged), scale_factor=2.0, mode="bilinear", align_corners=False
            )
            merged = self.smooth[level](self.lateral[level](levels[level]) + raised)
        return self.head(merged)

    @torch.inference_mode()
    def classes(self, images_B3HW: Tensor) -> Tensor:
        """Return the likeliest class of every pixel, uint8 (B, H, W)."""
        return self(images_B3HW).argmax(dim=1).to(torch.uint8)


def save_world_parser(path: Path, parser: WorldParser) -> None:
    """Write the parser to one file."""
    save_network(path, parser, FORMAT, parser.config.model_dump(mode="json"))


def load_world_parser(path: str | Path, device: str = "cpu") -> WorldParser:
    """Load a file of `save_world_parser`, frozen, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        NetworkFileError: it is another file.
    """
    config, tensors = read_network(path, FORMAT)
    parser = WorldParser(WorldParserConfig.model_validate(config))
    fill_network(parser, tensors, path)
    return parser.to(device)
