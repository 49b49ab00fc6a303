"""Scores of a benchmark: results between the two rows that say what they are worth, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics.exact_mesh import MeshTruth, mesh_truth
from models.metrics.exact_scores import benchmark_truth, exact_scores
from models.metrics.intervals import mean_with_interval
from models.worlds.benchmark_folder import BenchmarkManifest
from pipeline.benchmark_results import Results, resized

RESULTS: Final = "results"
COPY_TARGET: Final = "copy_target"
CEILING: Final = "truth_at_result_size"

UNITS: Final = {
    "face_psnr": "dB, more is good",
    "psnr": "dB, more is good",
    "rank_1_of_20": "share, more is good",
    "leak": "share, less is good",
    "light_error": "levels of 255",
    "lip_error": "levels of 255",
    "makeup_error": "levels of 255",
    "glasses_error": "levels of 255",
    "gaze_error": "% of eye width",
    "background_error": "levels of 255",
    "pose_error": "degrees",
    "expression_error": "eye distances",
}
"""What each metric is counted in; of those that say nothing else, less is good."""

Scores = Mapping[str, Mapping[str, NDArray[np.float64]]]


def score_results(
    manifest: BenchmarkManifest,
    results: Results,
    size: int,
    *,
    face_landmarker: Path | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Score results against the benchmark, rendered again from its seed.

    Args:
        manifest: which benchmark.
        results: one picture per pair, of `size`.
        size: at which size pictures are compared, pixels.
        face_landmarker: file of MediaPipe's face landmarker; without it there is no pose and no expression.
        report: told what is being done.

    Returns:
        plain values: `benchmark`, `compared_at`, `result_sizes`, `scores` (mean, low and high of the 95 %
        interval and number of rows, by method and metric) and `per_pair` (None where not measured).

    Raises:
        ValueError: the manifest's pairs or pixels are not those of this program.
    """
    report("checking the benchmark's hash")
    pairs = manifest.checked_pairs()
    report(f"rendering truths and candidates of {len(pairs)} pairs at {size} px")
    # Like the results, truths and targets have the pictures' size before they are compared at another.
    truths, targets = pairs.truths(manifest.size), pairs.target_photos(manifest.size)
    bench = replace(
        benchmark_truth(pairs, size),
        truth_NHWC=np.stack([resized(truth, size) for truth in truths]),
        target_NHWC=np.stack([resized(target, size) for target in targets]),
    )
    ceiling = np.stack(
        [
            resized(resized(truth, min(side, manifest.size)), size)
            for truth, side in zip(truths, results.sides_N, strict=True)
        ]
    )
    methods = {RESULTS: results.pictures_NHWC, COPY_TARGET: bench.target_NHWC, CEILING: ceiling}

    def score(meshes: MeshTruth | None) -> Scores:
        return {name: exact_scores(pictures, bench, meshes) for name, pictures in methods.items()}

    if face_landmarker is None:
        scores = score(None)
    else:
        from models.faces.mesh import FaceMesh

        report("fitting the face mesh for pose and expression")
        with FaceMesh(face_landmarker) as mesh:
            scores = score(mesh_truth(bench, mesh))
    return {
        "benchmark": manifest.model_dump(mode="json"),
        "compared_at": size,
        "result_sizes": results.describe(),
        "scores": {
            method: {name: _interval(values) for name, values in metrics.items()}
            for method, metrics in scores.items()
        },
        "per_pair": {
            method: {
                name: [float(value) if np.isfinite(value) else None for value in values]
                for name, values in metrics.items()
            }
            for method, metrics in scores.items()
        },
    }


def _interval(values: NDArray[np.float64]) -> dict[str, float | int | None]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": None, "low": None, "high": None, "rows": 0}
    return {**mean_with_interval(known, seed=0)._asdict(), "rows": len(known)}
