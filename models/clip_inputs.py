"""Pictures as CLIP wants them: the shorter side resized, the middle cut out, colours normalised."""

import torch.nn.functional as functional
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of RGB in 0..1 (OpenAI, CLIP); EVA-CLIP was trained with the same."""


def clip_input(x_B3HW: Tensor, size: int) -> Tensor:
    """Resize, crop and normalise pictures; differentiable.

    The shorter side becomes `size` by bicubic interpolation that smooths when it reduces, and is not clipped
    where it overshoots, as torchvision does it to tensors; then the square in the middle is taken.

    Args:
        x_B3HW: (B, 3, H, W) float RGB in 0..1, all of one size.
        size: side of the result in pixels.

    Returns:
        (B, 3, size, size), minus `CLIP_MEAN`, over `CLIP_STD`.

    Raises:
        ValueError: another shape, or not floating point.
    """
    if x_B3HW.ndim != 4 or x_B3HW.shape[1] != 3 or not x_B3HW.is_floating_point():
        raise ValueError(
            f"expected pictures (B, 3, H, W) as floats in 0..1, got {x_B3HW.dtype} {tuple(x_B3HW.shape)}"
        )
    height, width = x_B3HW.shape[2:]
    shorter = min(height, width)
    if shorter != size:
        target = [size * height // shorter, size * width // shorter]
        x_B3HW = functional.interpolate(x_B3HW, target, mode="bicubic", antialias=True)
    top, left = (round((side - size) / 2) for side in x_B3HW.shape[2:])
    x_B3HW = x_B3HW[:, :, top : top + size, left : left + size]
    mean = x_B3HW.new_tensor(CLIP_MEAN)[:, None, None]
    return (x_B3HW - mean) / x_B3HW.new_tensor(CLIP_STD)[:, None, None]
