"""The benchmark's pairs by DiffFace, with the profile's own settings: nothing is trained for it.

It swaps as the stage `diffface_swaps` does: the lake's annotation, the same random numbers for a pair in
every training seed, and of several repeats the one nearest to the source's identity.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.diffface_config import DIFFFACE, DiffFaceSwapsConfig, settings_on
from assets.diffface_frames import diffface_pair, swap_pairs, why_stopped
from assets.swapping import IDENTITY, SOURCE, TARGET, row_seed
from benches.leaderboard.scoring import Bench
from benches.leaderboard.values import Key, is_kept
from models.diffface.networks import open_networks
from resources.photos.reasons import RowError
from resources.weights.resolve import resolve

KEY = Key(DIFFFACE, DIFFFACE, None, None)
PAIRS_AT_ONCE = 32


def guided(bench: Bench, config: DiffFaceSwapsConfig) -> tuple[NDArray[np.uint8], list[int]]:
    """Guided swaps, uint8 RGB (M, S, S, 3), and which pairs they are of: a hidden face has none.

    Raises ValueError where the denoiser's side is not the one at which pictures are compared.
    """
    networks = open_networks(config.networks, {role: resolve(role).path for role in config.roles.all}, "cpu")
    if networks.side != bench.size:
        raise ValueError(f"DiffFace swaps at {networks.side} px, the leaderboard compares at {bench.size}")
    settings = settings_on(config.settings, "cpu")
    pictures: list[NDArray[np.uint8]] = []
    places: list[int] = []
    for first in range(0, len(bench.rows), PAIRS_AT_ONCE):
        found = []
        for place, row in enumerate(bench.rows[first : first + PAIRS_AT_ONCE], start=first):
            try:
                pair = diffface_pair(
                    _of_side(row, SOURCE),
                    _of_side(row, TARGET),
                    row[f"{SOURCE}.{IDENTITY}"],
                    side=networks.side,
                    number=row_seed(row["pair_id"]),
                    compat=settings.compat,
                )
            except RowError:
                continue
            found.append((place, pair))
        if not found:
            continue
        result = swap_pairs(networks, [pair for _, pair in found], settings)
        for index, (place, _) in enumerate(found):
            if why_stopped(result, index) is None:
                pictures.append(result.best(index).image_HWC)
                places.append(place)
        bench.report(f"{DIFFFACE}: {min(first + PAIRS_AT_ONCE, len(bench.rows))} of {len(bench.rows)} pairs")
    return np.stack(pictures), places


def made_by(same: str, config: DiffFaceSwapsConfig) -> str:
    """All that its row depends on; `same` is what every row of a seed depends on."""
    files = {role: resolve(role).sha256 for role in config.roles.all}
    return f"{same}, {json.dumps([files, config.model_dump(mode='json')], sort_keys=True)}"


def taken_from_another_seed(folder: Path, made: str) -> bool:
    """Copy the row from another training seed, for which it is the same; whether there was one.

    `folder` is the one with this seed's values.
    """
    for other in sorted(folder.parent.parent.glob(f"seed-*/{folder.name}")):
        if is_kept(other, KEY, made):
            shutil.copyfile(other / KEY.file_name, folder / KEY.file_name)
            return True
    return False


def _of_side(row: dict[str, Any], side: str) -> dict[str, Any]:
    start = f"{side}."
    return {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}
