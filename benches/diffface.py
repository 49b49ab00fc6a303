"""DiffFace by its small networks on the benchmark: corrected and as published, and what two arguments trade.

    python -m benches.diffface --pairs 32

swaps the first pairs of the benchmark by every variant, with the same noise for a pair in all of them, and
measures each against its exact answer. It writes benches/results/diffface.json, the grid and the frontiers
beside it, and the section of docs/diffface.md that tells them; `--page` writes figures and section anew from
the result file. Masks and landmarks are the renderer's, so that nothing of an annotation is measured.
A variant takes about 5 seconds of one core per pair.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from assets.frontier_summary import ATTRIBUTES
from benches.diffface_page import (
    COMPAT,
    DEFAULT,
    GRID,
    LOSS_WEIGHT,
    RESULT,
    THRESHOLD,
    Change,
    DiffFaceResult,
    Variant,
    read_result,
    write_page,
)
from benches.leaderboard.figures import write_grid
from benches.leaderboard.results import OVERALL, Figure, attribute_units, figure, overall
from models.diffface.blending import face_mask
from models.diffface.compat import CompatConfig
from models.diffface.networks import DiffFaceNetworks, open_networks
from models.diffface.roles import NETWORK_ROLES
from models.diffface.settings import DiffFaceSettings
from models.metrics.exact_scores import exact_scores
from models.metrics.exact_truth import ExactTruth, benchmark_truth
from models.worlds.benchmark import BenchmarkPairs, benchmark_hash, benchmark_pairs
from models.worlds.world import RenderedFaces, render
from resources.weights.resolve import resolve

PAIRS = 32
THRESHOLDS = (0, 15, 30, 45, 60)
LOSS_WEIGHTS = (0.0, 2000.0, 6000.0, 18_000.0)
EMBEDDED_SIDE = 256
"""Side of the photographs whose identity is embedded, px."""

SHOWN = 8
"""Pairs in the grid."""

Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Photographs:
    """Pairs of the benchmark at the denoiser's side, and what they are measured against."""

    sources: RenderedFaces
    targets: RenderedFaces
    masks_NHW: NDArray[np.bool_]
    identities_ND: NDArray[np.float32]
    truth: ExactTruth

    @classmethod
    def of(cls, pairs: BenchmarkPairs, networks: DiffFaceNetworks) -> Photographs:
        """Render and embed."""
        side = networks.side
        large = render(pairs.sources, pairs.source_attributes, EMBEDDED_SIDE)
        targets = render(pairs.targets, pairs.target_attributes, side)
        return cls(
            render(pairs.sources, pairs.source_attributes, side),
            targets,
            face_mask(targets.parsing_NHW, CompatConfig()),
            networks.embed(list(large.images_NHWC), list(large.landmarks_68_N682)),
            benchmark_truth(pairs, side),
        )


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benches.diffface", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of the benchmark (%(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="iterations_num of all variants (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="swaps computed together (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--page", action="store_true", help="only write the page, from the result file")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    path = options.root / RESULT
    if not options.page:
        base = DiffFaceSettings(device="cpu", iterations_num=options.repeats, batch_size=options.batch_size)
        result, grid = measure(options.pairs, base, report=_say)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_grid(path.with_name(GRID), grid)
    for written in write_page(read_result(path), options.root):
        _say(f"wrote {written}")
    return 0


def measure(
    pairs: int,
    base: DiffFaceSettings,
    *,
    thresholds: Sequence[int] = THRESHOLDS,
    loss_weights: Sequence[float] = LOSS_WEIGHTS,
    report: Callable[[str], None] = print,
) -> tuple[DiffFaceResult, dict[str, NDArray[np.uint8]]]:
    """Swap and measure all variants.

    Args:
        pairs: how many, the first ones of the benchmark.
        base: the settings that variants differ from; its threshold and weight are measured in any case.
        thresholds: values of `masking_threshold`.
        loss_weights: values of `loss_weight`.
        report: told what was measured.

    Returns:
        The result, and the grid's columns: uint8 RGB (M, S, S, 3) by name.
    """
    roles = NETWORK_ROLES["world"]
    networks = open_networks("world", {role: resolve(role).path for role in roles.all}, "cpu")
    asked = benchmark_pairs(pairs)
    photographs = Photographs.of(asked, networks)
    measured: dict[Variant, Values] = {}
    pictures: dict[Variant, NDArray[np.uint8]] = {}
    seconds: dict[Variant, float] = {}
    same: dict[DiffFaceSettings, Variant] = {}
    for variant, settings in variants(base, thresholds, loss_weights).items():
        if settings in same:  # the default is a point of both sweeps
            found = same[settings]
            measured[variant], seconds[variant] = measured[found], seconds[found]
            continue
        same[settings] = variant
        begun = time.process_time()
        pictures[variant], distances = swap_all(networks, photographs, settings)
        seconds[variant] = (time.process_time() - begun) / (pairs * settings.iterations_num)
        measured[variant] = scores(photographs, pictures[variant], distances)
        means = {name: float(np.nanmean(measured[variant][name])) for name in ("rank_1_of_20", "face_psnr")}
        report(
            f"{variant.label}: rank-1 {means['rank_1_of_20']:.3f}, {means['face_psnr']:.1f} dB in the face, "
            f"{seconds[variant]:.2f} s of CPU per swap"
        )
    plain = measured[DEFAULT]
    units = attribute_units(plain)
    for values in {id(values): values for values in measured.values()}.values():
        values[OVERALL] = overall(values, units)
    ends = (
        Variant(argument=THRESHOLD, value=max(thresholds)),
        Variant(argument=THRESHOLD, value=base.masking_threshold),
    )
    result = DiffFaceResult(
        command=f"python -m benches.diffface --pairs {pairs} --repeats {base.iterations_num}",
        date=datetime.now(UTC).date().isoformat(),
        benchmark=benchmark_hash(asked),
        pairs=pairs,
        repeats=base.iterations_num,
        compared_at=networks.side,
        denoiser_sha256=resolve(roles.denoiser).sha256,
        settings=base.model_dump(mode="json", exclude={"output_path", "output_file", "compat"}),
        rows=tuple(
            variant.measured(figures(values), seconds[variant]) for variant, values in measured.items()
        ),
        changes=(
            change(DEFAULT, COMPAT, measured),
            change(ends[1], ends[0], measured),
        ),
    )
    shown = slice(0, min(SHOWN, pairs))
    grid = {
        "source": photographs.sources.images_NHWC[shown],
        "target": photographs.targets.images_NHWC[shown],
        "truth": photographs.truth.truth_NHWC[shown],
        "default": pictures[DEFAULT][shown],
        "compat": pictures[COMPAT][shown],
    }
    return result, grid


def variants(
    base: DiffFaceSettings, thresholds: Sequence[int], loss_weights: Sequence[float]
) -> Mapping[Variant, DiffFaceSettings]:
    """What is measured, in the order of the tables."""
    found: dict[Variant, DiffFaceSettings] = {}
    found[DEFAULT] = base
    found[COMPAT] = base.model_copy(update={"compat": CompatConfig.published()})
    for threshold in sorted({*thresholds, base.masking_threshold}):
        found[Variant(argument=THRESHOLD, value=threshold)] = _changed(base, THRESHOLD, threshold)
    for weight in sorted({*loss_weights, base.loss_weight}):
        found[Variant(argument=LOSS_WEIGHT, value=weight)] = _changed(base, LOSS_WEIGHT, weight)
    return found


def swap_all(
    networks: DiffFaceNetworks, photographs: Photographs, settings: DiffFaceSettings
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The best repeat of every pair, and its identity distance; one that stopped is the target, and NaN."""
    result = networks.swapper.swap(
        photographs.sources.images_NHWC,
        photographs.identities_ND,
        photographs.targets.images_NHWC,
        photographs.masks_NHW,
        settings,
        target_landmarks=list(photographs.targets.landmarks_68_N682),
        source_landmarks=list(photographs.sources.landmarks_68_N682),
    )
    return result.images_NHWC, result.distances_N


def scores(
    photographs: Photographs, pictures_NHWC: NDArray[np.uint8], distances_N: NDArray[np.float64]
) -> Values:
    """Exact metrics, the identity distance, and by how many levels of 255 pixels outside the mask changed."""
    changed = np.abs(pictures_NHWC.astype(float) - photographs.targets.images_NHWC).mean(axis=3)
    outside = ~photographs.masks_NHW
    return {
        **exact_scores(pictures_NHWC, photographs.truth),
        "identity_distance": distances_N,
        "outside_mask": (changed * outside).sum(axis=(1, 2)) / outside.sum(axis=(1, 2)),
    }


def figures(values: Values) -> dict[str, Figure]:
    """Means and 95 % intervals over pairs."""
    return {name: figure(found[None]) for name, found in values.items()}


def change(reference: Variant, variant: Variant, measured: Mapping[Variant, Values]) -> Change:
    """By how much a variant differs from another, pair by pair."""
    own, other = measured[variant], measured[reference]
    names = (
        "rank_1_of_20",
        "leak",
        "face_psnr",
        "background_error",
        "identity_distance",
        OVERALL,
        *ATTRIBUTES,
    )
    return Change(
        variant=variant.label,
        reference=reference.label,
        differences={name: figure((own[name] - other[name])[None]) for name in names},
    )


def _changed(base: DiffFaceSettings, name: str, value: float) -> DiffFaceSettings:
    return DiffFaceSettings.model_validate({**dict(base), name: value})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
