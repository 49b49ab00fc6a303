"""Validation grids: held-out pairs, swapped with the weights of the moment.

They take no part in training: their noise has seeds of its own, nothing is learned, and no random state is
touched. With several processes each samples its share of the pairs, so that none waits longer than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from models.swap.base import SwapBase
from models.swap.codec import LatentCodec
from models.swap.data import ValidationRows
from models.swap.execution_config import ExecutionConfig
from models.swap.processes import several
from models.swap.sampling_config import SamplingConfig
from models.swap.swapper import Swapper
from models.swap.transformer import SwapTransformer

GAP = 2
"""White pixels between the pictures of a grid."""

COLUMNS = ("source", "target", "condition", "result")


@dataclass(frozen=True)
class Validation:
    """What is swapped at every validation, how, and who is given the picture (in the main process alone).

    `on_grid` takes the step and an RGB uint8 picture: a line per pair, the columns of `COLUMNS`.
    """

    rows: ValidationRows
    sampling: SamplingConfig
    on_grid: Callable[[int, NDArray[np.uint8]], None]


def validation_grid(
    model: SwapTransformer, codec: LatentCodec, validation: Validation, *, device: torch.device, seed: int
) -> NDArray[np.uint8]:
    """Return the grid of the model as it is; every process must call it, and each gets the whole."""
    rows = validation.rows
    results_VLC = torch.zeros_like(rows.target_latents_VLC)
    process, processes = (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)
    mine = slice(process, None, processes)
    seeds = [seed + row for row in range(len(results_VLC))][mine]
    if seeds:
        # the training's own kernel: a choice of the swapper's would go on into the steps that follow
        execution = ExecutionConfig(attention=model.attention)
        swapper = Swapper(SwapBase(model, codec, model.config, ""), device=str(device), execution=execution)
        results_VLC[mine] = swapper.swap(
            rows.identity_VD[mine],
            rows.condition_latents_VLC[mine],
            rows.target_latents_VLC[mine],
            validation.sampling,
            seeds,
        )
    if several():
        shared = results_VLC.to(device)  # NCCL adds on the GPU alone; each row is zero but in one process
        dist.all_reduce(shared)
        results_VLC = shared.cpu()
    columns = (rows.source_latents_VLC, rows.target_latents_VLC, rows.condition_latents_VLC, results_VLC)
    return picture_grid([codec.decode(column_VLC.to(device)) for column_VLC in columns])


def picture_grid(columns: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return batches of pictures (V, H, W, 3) as one picture: a batch per column, with white gaps."""
    cells = np.stack(columns, axis=1)
    lines, count, height, width, _ = cells.shape
    grid = np.full((lines * (height + GAP) - GAP, count * (width + GAP) - GAP, 3), 255, np.uint8)
    for line in range(lines):
        for column in range(count):
            top, left = line * (height + GAP), column * (width + GAP)
            grid[top : top + height, left : left + width] = cells[line, column]
    return grid
