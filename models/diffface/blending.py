"""Target-preserving blending: how free of the target the face is at each step, and the last composite.

DiffFace, section 3.4. The soft mask of step t is M min(1, (n - (t + 1)) / (n - masking_threshold)), with n
the steps that are taken; the published program has 75 in place of n (`CompatConfig.literal_75`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diffface.compat import COLOUR_MAP_ALPHA, CompatConfig
from models.diffface.experts.weights import PARSED_CLASSES
from models.diffface.settings import DiffFaceSettings
from models.faces.constants import GLASSES_CLASS

FEATHER_RADII = 3
"""Half the width of the Gaussian window, in deviations."""


def face_classes(compat: CompatConfig) -> tuple[int, ...]:
    """Classes that are the face: the parsing expert's nine, and glasses unless they are left out."""
    if compat.glasses_outside_mask:
        return PARSED_CLASSES
    return tuple(sorted((*PARSED_CLASSES, GLASSES_CLASS)))


def face_mask(codes_NHW: NDArray[np.integer], compat: CompatConfig) -> NDArray[np.bool_]:
    """Where a target's face is, (N, H, W) bool, from its class codes; hard-edged and not widened."""
    return np.isin(codes_NHW, face_classes(compat))


def mask_strength(index: int, settings: DiffFaceSettings) -> float:
    """The factor of the mask at step `index`, t above; 0 keeps the target, 1 frees the face.

    It is 0 at the first step and 1 from `masking_threshold` - 1 on. With `literal_75` and other numbers of
    steps it may be negative, as it is there.

    Raises:
        ValueError: a step outside those that are taken.
    """
    if not 0 <= index < settings.sampled_steps:
        raise ValueError(f"step {index} is not among the {settings.sampled_steps} that are taken, 0 to n - 1")
    start = settings.mask_start
    return min(1.0, (start - (index + 1)) / (start - settings.masking_threshold))


def blends(index: int, settings: DiffFaceSettings) -> bool:
    """Whether the target is blended in at this step."""
    if settings.ddim and settings.compat.ddim_unblended:
        return False
    return not settings.no_enforce_background or index > settings.masking_threshold


def blend_level(index: int, settings: DiffFaceSettings) -> int:
    """Noise level of the target that is blended in after step `index`; -1 is no noise.

    The step leads from level t to level t - 1, so that is the one.
    """
    return index if settings.compat.reblend_at_t else index - 1


def blend(
    x_BCHW: Tensor, noised_target_BCHW: Tensor, mask_B1HW: Tensor, index: int, settings: DiffFaceSettings
) -> Tensor:
    """The picture inside the soft mask, the target outside.

    Args:
        x_BCHW: after step `index`.
        noised_target_BCHW: the target at `blend_level`.
        mask_B1HW: 1 on the face, 0 elsewhere.
        index: step.
        settings: of the swap.
    """
    soft_B1HW = mask_strength(index, settings) * mask_B1HW
    return soft_B1HW * x_BCHW + (1 - soft_B1HW) * noised_target_BCHW


def parsed_alpha(codes_BHW: Tensor, settings: DiffFaceSettings) -> Tensor:
    """Opacity of the swapped picture (B, 1, H, W) by its own parse, for a background that is not enforced.

    By default 1 on the face, softened inwards and outwards by `feather`; with `colour_map_alpha` the red of
    the parse's colour.
    """
    if settings.compat.colour_map_alpha:
        table = torch.zeros(256, device=codes_BHW.device)
        for code, alpha in COLOUR_MAP_ALPHA.items():
            table[code] = alpha
        return table[codes_BHW.long()][:, None]
    classes = torch.tensor(face_classes(settings.compat), device=codes_BHW.device)
    face_B1HW = torch.isin(codes_BHW.long(), classes)[:, None].float()
    deviation = settings.feather * codes_BHW.shape[-1]
    radius = int(np.ceil(FEATHER_RADII * deviation))
    if not radius:
        return face_B1HW
    from kornia.filters import gaussian_blur2d

    width = 2 * radius + 1
    return gaussian_blur2d(face_B1HW, (width, width), (deviation, deviation), border_type="replicate").clamp(
        0, 1
    )


def to_pixels(x_BCHW: Tensor) -> NDArray[np.uint8]:
    """Pictures in -1..1 as uint8 (B, H, W, 3), rounded; what lies outside is cut off."""
    scaled = ((x_BCHW.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def composite(
    swapped_BHWC: NDArray[np.uint8],
    target_BHWC: NDArray[np.uint8],
    alpha_BHW: NDArray[np.floating | np.bool_],
) -> NDArray[np.uint8]:
    """The swapped picture over the target; where alpha is 0 the target's pixels are kept exactly."""
    alpha = alpha_BHW[..., None].astype(np.float32)
    mixed = swapped_BHWC.astype(np.float32) * alpha + target_BHWC.astype(np.float32) * (1 - alpha)
    return np.where(alpha > 0, np.rint(mixed).astype(np.uint8), target_BHWC)
