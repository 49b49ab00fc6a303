"""Where APPLE's scripts put the results of many pairs, below `--base_path`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assets.photo_swaps.face_by_face import FaceByFaceSwapper
from assets.photo_swaps.settings import SwapSettings
from assets.photo_swaps.swapper import PhotoSwapper
from pipeline.commands.swap_options import SwapPlace


def apple_folder(
    place: SwapPlace, swapper: PhotoSwapper | FaceByFaceSwapper[Any], settings: SwapSettings
) -> Path:
    """Where APPLE's scripts would put the results, below --base_path."""
    assert isinstance(swapper, PhotoSwapper)  # others were refused with --base_path
    sampling = swapper.sampling
    scales = (sampling.guidance_scale, sampling.image_guidance_scale, sampling.id_guidance_scale)
    inverted = sampling.inverse_steps or sampling.steps
    last = last_folder(sampling.inversion, inverted, second_order=sampling.second_order)
    return place.folder(swapper.model_id, settings, scales) / last


def last_folder(inversion: str | None, inverse_steps: int, *, second_order: bool) -> str:
    """Last part of APPLE's result folder: `base`, or what was inverted and how."""
    if inversion is None:
        return "base"
    return f"invFix_{inversion}_{inverse_steps}" + ("_2ndTrue" if second_order else "")
