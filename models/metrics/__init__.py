"""Metrics of swaps against exact ground truth, and honest intervals for their means."""

from models.metrics.exact import (
    background_error,
    light_error,
    masked_psnr,
    psnr,
    render_retrieval_rank1,
    swap_progress,
)
from models.metrics.identity import identity_leak, identity_similarity
from models.metrics.intervals import mean_with_interval

__all__ = [
    "background_error",
    "identity_leak",
    "identity_similarity",
    "light_error",
    "masked_psnr",
    "mean_with_interval",
    "psnr",
    "render_retrieval_rank1",
    "swap_progress",
]
