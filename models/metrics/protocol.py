"""The measures of published face-swapping tables, over the swaps of several methods of the same pairs.

Each metric is a small object that says what it measures with, in which unit, which way is better, and which
weights it needs. A metric whose weights are absent is in the result all the same, with the reason. Which
metrics there are is in `protocol_metrics` and `protocol_sets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.faces.images import Image, Points
from models.metrics.intervals import mean_with_interval


@dataclass(frozen=True)
class FaceReading:
    """What an annotator saw in one picture.

    Attributes:
        mesh_478x3: face mesh in pixels of that picture.
        pose_3: yaw, pitch and roll in degrees.
        coefficients_257: of a morphable face model, where the annotator has one.
    """

    mesh_478x3: Points
    pose_3: Points
    coefficients_257: Points | None = None


@dataclass(frozen=True)
class ProtocolPairs:
    """N pairs, and what is compared with; every picture RGB uint8 (H, W, 3) of a size of its own.

    Attributes:
        sources: M source photographs, each once: the gallery of retrieval.
        source_landmarks: 68 landmarks (68, 2) of each of them, px.
        source_people: who is in each of them.
        source_of: which of them is a pair's source, (N,).
        targets: N target photographs.
        target_landmarks: 68 landmarks (68, 2) of each of them, px.
        target_faces: what the annotator saw in each of them.
        reference: real photographs that the set of swaps is compared with.
    """

    sources: Sequence[Image]
    source_landmarks: Sequence[Points]
    source_people: Sequence[str]
    source_of: NDArray[np.integer]
    targets: Sequence[Image]
    target_landmarks: Sequence[Points]
    target_faces: Sequence[FaceReading]
    reference: Sequence[Image]

    def __post_init__(self) -> None:
        counts = {len(self.source_of), len(self.targets), len(self.target_landmarks), len(self.target_faces)}
        if len(counts) > 1 or not len(self.source_of):
            raise ValueError(f"pairs must agree in number and be one at least, got {sorted(counts)}")
        gallery = {len(self.sources), len(self.source_landmarks), len(self.source_people)}
        if len(gallery) > 1 or int(np.max(self.source_of)) >= len(self.sources):
            raise ValueError(f"sources must agree in number and hold every pair's own, got {sorted(gallery)}")


@dataclass(frozen=True)
class SwapOutputs:
    """What one method made of the pairs, in their order, each picture in the size of its target.

    Attributes:
        pictures: RGB uint8 (H, W, 3).
        faces: what the annotator saw in each of them; None where it found no face.
    """

    pictures: Sequence[Image]
    faces: Sequence[FaceReading | None]


@dataclass(frozen=True)
class MetricValues:
    """What a metric found: one value per pair (NaN where there is none), or one of the set."""

    values_N: NDArray[np.floating] | None = None
    value: float | None = None
    note: str = ""


Measure = Callable[[SwapOutputs], MetricValues]


@dataclass(frozen=True)
class WeightFile:
    """A model file that is here."""

    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ProtocolMetric:
    """One measure.

    Attributes:
        name: unique among the metrics of a protocol.
        extractor: the network or method that it measures with.
        unit: of its values.
        better: whether more or less of it is better.
        needs: weight roles without which it does not run.
        used_in_training: for identity, whether the swapper saw this encoder in training; None elsewhere.
        prepare: from pairs, files by role and a torch device to what measures one method's outputs.
    """

    name: str
    extractor: str
    unit: str
    better: Literal["up", "down"]
    needs: tuple[str, ...]
    prepare: Callable[[ProtocolPairs, Mapping[str, Path], str], Measure]
    used_in_training: bool | None = None


@dataclass(frozen=True)
class MetricScore:
    """One metric of one method.

    Attributes:
        method: of the swaps.
        metric: what was measured.
        value: mean of the pairs, or the set's value; None where it was not measured.
        low, high: 95 % bootstrap interval over the pairs; None for a value of the whole set.
        count: pairs that have a value.
        values_N: value of every pair, NaN where it has none; None for a value of the whole set.
        sha256: digests of the metric's model files, by role.
        note: what a reader must know, or "".
        not_measured: why there is no value, or "".
    """

    method: str
    metric: ProtocolMetric
    sha256: Mapping[str, str]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: int = 0
    values_N: NDArray[np.float64] | None = None
    note: str = ""
    not_measured: str = ""

    def row(self) -> dict[str, Any]:
        """Everything but the pairs' values, as JSON takes it."""
        metric = self.metric
        return {
            "method": self.method,
            "metric": metric.name,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "unit": metric.unit,
            "better": metric.better,
            "extractor": metric.extractor,
            "used_in_training": metric.used_in_training,
            "weights": dict(self.sha256),
            "note": self.note,
            "not_measured": self.not_measured,
        }


@dataclass(frozen=True)
class ProtocolResult:
    """Every metric of every method, metrics in the order in which they were asked for."""

    scores: tuple[MetricScore, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One dict per score, see `MetricScore.row`."""
        return [score.row() for score in self.scores]

    def of(self, method: str, metric: str) -> MetricScore:
        """The score of that method and metric. Raises KeyError."""
        for score in self.scores:
            if (score.method, score.metric.name) == (method, metric):
                return score
        raise KeyError(f"no score of {metric} for {method}")


def protocol_scores(
    outputs: Mapping[str, SwapOutputs],
    pairs: ProtocolPairs,
    metrics: Sequence[ProtocolMetric],
    weights: Mapping[str, WeightFile | str],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> ProtocolResult:
    """Measure the swaps of every method with every metric.

    Args:
        outputs: by method.
        pairs: what all methods swapped.
        metrics: what to measure.
        weights: by role the file, or the reason why it may or can not be used. A role that is not among them
            is not here.
        device: torch device name of the metrics' networks.
        seed: of the bootstrap intervals.

    Raises:
        ValueError: two metrics of one name, or a method without one output for every pair.
    """
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"two metrics have one name among {', '.join(names)}")
    for method, made in outputs.items():
        if not len(made.pictures) == len(made.faces) == len(pairs.targets):
            raise ValueError(
                f"{method} has {len(made.pictures)} pictures and {len(made.faces)} readings for "
                f"{len(pairs.targets)} pairs"
            )
    scores: list[MetricScore] = []
    for metric in metrics:
        scores += _metric_scores(metric, outputs, pairs, weights, device, seed)
    return ProtocolResult(tuple(scores))


def _metric_scores(
    metric: ProtocolMetric,
    outputs: Mapping[str, SwapOutputs],
    pairs: ProtocolPairs,
    weights: Mapping[str, WeightFile | str],
    device: str,
    seed: int,
) -> Iterator[MetricScore]:
    found = {role: weights.get(role, f"weight {role} is not here") for role in metric.needs}
    lacking = [reason for reason in found.values() if isinstance(reason, str)]
    if lacking:
        reason = f"not measured: {'; '.join(lacking)}"
        yield from (MetricScore(method, metric, {}, not_measured=reason) for method in outputs)
        return
    files = {role: file for role, file in found.items() if isinstance(file, WeightFile)}
    measure = metric.prepare(pairs, {role: file.path for role, file in files.items()}, device)
    digests = {role: file.sha256 for role, file in files.items()}
    for method, made in outputs.items():
        yield _score(method, metric, digests, measure(made), seed)


def _score(
    method: str, metric: ProtocolMetric, digests: Mapping[str, str], found: MetricValues, seed: int
) -> MetricScore:
    if found.values_N is None:
        if found.value is None:
            return MetricScore(method, metric, digests, not_measured=f"not measured: {found.note}")
        return MetricScore(method, metric, digests, found.value, note=found.note)
    values = np.asarray(found.values_N, np.float64)
    measured = values[np.isfinite(values)]
    if not len(measured):
        reason = f"not measured: no face was found in any of {len(values)} pictures"
        return MetricScore(method, metric, digests, values_N=values, not_measured=reason)
    missing = len(values) - len(measured)
    note = f"no face was found in {missing} of {len(values)} pictures" if missing else found.note
    mean, low, high = mean_with_interval(measured, seed=seed)
    return MetricScore(method, metric, digests, mean, low, high, len(measured), values, note)
