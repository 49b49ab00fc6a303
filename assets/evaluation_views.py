"""The evaluation as people look at it in Dagster: its means as a table, and the first pairs as pictures."""

from __future__ import annotations

import numpy as np

from assets.diffface_config import DIFFFACE
from assets.evaluation_pairs import SMALL_PICTURES
from assets.previews import encode_png, tile_row
from assets.swap_methods import PAIR, methods_of, stored_swaps
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import recipe_of
from resources.photos.decoding import decode_upright

PAIRS_SHOWN = 3
TILE = 96


def evaluation_markdown(lake: Lake, artifact: Artifact) -> str | None:
    """Means of every method with their 95 % intervals, as Markdown; None where nothing was measured."""
    stored = lake.evaluations.snapshot().dataset.to_table(filter=f"evaluation = '{artifact.digest.hex()}'")
    rows = stored.to_pylist()
    if not rows:
        return None
    methods, metrics = (list(dict.fromkeys(row[name] for row in rows)) for name in ("method", "metric"))
    cells = {
        (row["method"], row["metric"]): f"{row['mean']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
        for row in rows
    }
    lines = [f"| metric | {' | '.join(methods)} |", f"|{'---|' * (len(methods) + 1)}"]
    for metric in metrics:
        shown = " | ".join(cells.get((method, metric), "not measured") for method in methods)
        lines.append(f"| {metric} | {shown} |")
    return "\n".join(lines)


def evaluation_preview(lake: Lake, artifact: Artifact) -> bytes | None:
    """The first pairs by name: exact answer, then each method's swap, as PNG; None where there is none."""
    diffface = any(name.startswith(f"{DIFFFACE}: ") for name in artifact.metadata)
    methods = methods_of(diffface=diffface)
    rows = stored_swaps(lake, recipe_of(artifact.stage), ["swap"], diffface=diffface)
    made = {(row[PAIR], row["method"]): row["swap"] for row in rows if row["ok"]}
    pairs = sorted({pair for pair, _ in made})
    known = lake.swap_pairs.snapshot().find(pairs, ["truth"])
    whole = [
        pair
        for pair in pairs
        if pair in known and known[pair]["truth"] and all((pair, method) in made for method in methods)
    ]
    if not whole:
        return None
    strips = [
        tile_row(
            [
                decode_upright(data, SMALL_PICTURES)
                for data in (known[pair]["truth"], *(made[pair, method] for method in methods))
            ],
            TILE,
        )
        for pair in whole[:PAIRS_SHOWN]
    ]
    return encode_png(np.concatenate(strips))
