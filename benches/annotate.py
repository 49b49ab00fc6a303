"""Photographs per second of each annotation stage: fused, one at a time, bare, and in the original's shape.

Run `python -m benches.annotate`; the figures go to benches/results/annotate.json. The photographs are
rendered portraits. All four ways call the same loaded models and time them in the same run, so that what lies
around them is known: wall time minus the time inside the models. On a busy machine the same in processor
time says more; both are given. Packing of masks, which happens inside our models, is ours and counted as
such. Loading of models is not counted anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import assets.batches
import assets.condition
import assets.masks
from assets.planner import Planner
from assets.stage import Row, RowModel, RowOutcome, RowStage, StageContext, StageGraph
from benches import original_shape
from benches.clocks import Clock, best_seconds, clocked, total
from benches.measuring import Repetition, write_result
from benches.storage import bytes_of
from models.worlds.portraits import write_portraits
from pipeline.execution import run_stages
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.photos.decoding import decode_upright
from resources.photos.reasons import RowError

PROFILE = "tiny"
TRIES = 5
"""Decodings of each photograph in the short form, the shortest of which counts."""

BAR = {"times_the_original": 5.0, "overhead": 0.15, "bytes_of_the_original": 1 / 3}
"""At least so many times quicker around the models, so little over them, so few of the original's bytes."""


@dataclasses.dataclass(frozen=True)
class Way:
    """What one way of annotating took."""

    whole: Clock
    in_models: Clock
    bytes: int
    by_stage: Mapping[str, float]
    decoding: Clock | None = None
    packing: Clock | None = None

    @property
    def around(self) -> Clock:
        """Everything that is not a model."""
        return self.whole.without(self.in_models)

    def summary(self, count: int) -> dict[str, Any]:
        """The figures of `count` photographs."""
        shown: dict[str, Any] = {
            "seconds": round(self.whole.seconds, 2),
            "in_models": round(self.in_models.seconds, 2),
            "photos_per_second": round(count / self.whole.seconds, 2),
            "around_models_ms_per_photo": round(1e3 * self.around.seconds / count, 2),
            "around_models_cpu_ms_per_photo": round(1e3 * self.around.cpu / count, 2),
        }
        if self.decoding and self.packing:
            shown |= {
                "of_these_decoding": round(1e3 * self.decoding.seconds / count, 2),
                "of_these_packing_masks": round(1e3 * self.packing.seconds / count, 2),
            }
        return shown | {"bytes_per_photo": round(self.bytes / count)}


DECODING = ((assets.batches, "decode_upright"),)
PACKING = (
    (assets.masks, "encode_codes"),
    (assets.masks, "pack_mask"),
    (assets.condition, "decode_codes"),
    (assets.condition, "unpack_mask"),
)
"""Compressing masks for the lake and taking them out again: no model's work."""


def timed_graph(graph: StageGraph, models: Mapping[str, RowModel], clocks: Mapping[str, Clock]) -> StageGraph:
    """The graph with loaded models that are timed; code, settings and so the fingerprints are the same."""

    def with_clock(stage: RowStage) -> RowStage:
        model = clocks[stage.name].timed(models[stage.name])
        return dataclasses.replace(stage, load=lambda context: model)

    return StageGraph(tuple(with_clock(stage) for stage in graph.row_stages("faces")), graph.limits)


def in_the_lake(
    root: Path, photos: Path, graph: StageGraph, models: Mapping[str, RowModel], together: bool
) -> tuple[Way, dict[str, int], list[dict[str, str]]]:
    """Annotate a new lake: the figures, the rows that are ok in each stage, and the digests of all shards."""
    lake = Lake.open(root, create=True)
    ingest(lake, photos, consent=Consent.SYNTHETIC, shard_size=256)
    clocks = {name: Clock() for name in models}
    timed = timed_graph(graph, models, clocks)
    timed.prepare(lake)
    before = bytes_of(root)
    by_stage: dict[str, float] = {}
    whole = Clock()
    with clocked(*DECODING) as decoding, clocked(*PACKING) as packing:
        for names in [timed.names] if together else [(name,) for name in timed.names]:
            earlier = whole.seconds
            with whole.running():
                run_stages(lake, timed, names, device="cpu")
            by_stage[names[0]] = whole.seconds - earlier
    table = Planner(lake, timed).table("faces")
    in_models = total(clocks.values()).without(packing)
    way = Way(whole, in_models, bytes_of(root) - before, {} if together else by_stage, decoding, packing)
    ok_rows = {name: int(table.stages[name].ok.sum()) for name in timed.names}
    return way, ok_rows, [table.shard_digests(name) for name in timed.names]


def bare(
    photos: Sequence[Path], stages: Sequence[RowStage], models: Mapping[str, RowModel]
) -> dict[str, float]:
    """Seconds of each model called in batches on photographs that are decoded already."""
    rows: list[dict[str, Any]] = [{"image": decode_upright(path.read_bytes())} for path in photos]
    seconds: dict[str, float] = {}
    for stage in stages:
        outcomes: list[RowOutcome] = []
        batches: list[Sequence[Row]] = [
            rows[start : start + stage.batch_size] for start in range(0, len(rows), stage.batch_size)
        ]
        started = time.perf_counter()
        for batch in batches:
            outcomes += models[stage.name](batch)
        seconds[stage.name] = time.perf_counter() - started
        rows = [
            row | dict(out) for row, out in zip(rows, outcomes, strict=True) if not isinstance(out, RowError)
        ]
    return seconds


def measure(root: Path, people: int, photos_each: int, size: int) -> dict[str, Any]:
    """All four ways over the same portraits."""
    portraits = write_portraits(
        root / "portraits", identities=people, photos=photos_each, size=size, swap_pairs=0
    )
    folder = portraits.root / "photos"
    photos = sorted(folder.rglob("*.jpg"))
    graph = profile(PROFILE).graph()
    stages = graph.row_stages("faces")
    models = loaded(root, stages)
    bare(photos[:2], stages, models)  # the first call of a network is slower
    alone, _, alone_digests = in_the_lake(root / "alone", folder, graph, models, together=False)
    fused, ok_rows, fused_digests = in_the_lake(root / "fused", folder, graph, models, together=True)
    if alone_digests != fused_digests:
        raise RuntimeError("stages run together and one at a time gave different rows")
    in_bare = bare(photos, stages, models)
    original = in_the_original_shape(root / "original", photos, models)
    facts = {
        "photographs": {"count": len(photos), "px": size, "format": "JPEG"},
        "profile": PROFILE,
        "ok_rows": ok_rows,
    }
    return facts | report(len(photos), in_bare, alone, fused, original)


def loaded(root: Path, stages: Sequence[RowStage]) -> dict[str, RowModel]:
    """The models of the stages, on the CPU."""
    scratch = Lake.open(root / "scratch", create=True)
    return {
        stage.name: stage.load(StageContext(scratch, stage.resolve_weights(), "cpu", lambda text: None))
        for stage in stages
    }


def quick(folder: Path) -> Repetition:
    """A few portraits in a new lake against the original's shape, and decoding against OpenCV's alone."""
    portraits = write_portraits(folder / "portraits", identities=3, photos=2, size=384, swap_pairs=0)
    photos = sorted((portraits.root / "photos").rglob("*.jpg"))
    graph = profile(PROFILE).graph()
    models = loaded(folder, graph.row_stages("faces"))

    def repeat() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            lake, pictures = Path(own, "lake"), Path(own, "original")
            ours, _, _ = in_the_lake(lake, portraits.root / "photos", graph, models, together=True)
            theirs = in_the_original_shape(pictures, photos, models)
        decoding = opencv = 0.0
        for data in [path.read_bytes() for path in photos]:
            decoding += best_seconds(lambda data=data: assets.batches.decode_upright(data), TRIES)
            opencv += best_seconds(lambda data=data: _decoded_by_opencv(data), TRIES)
        around = ours.around.without(ours.decoding or Clock())
        return {
            "seconds of decoding, ours over OpenCV alone": decoding / opencv,
            "seconds around the models without decoding, the lake over the original's shape with it": (
                around.seconds / theirs.around.seconds
            ),
            "bytes of the lake over those of the original's pictures": ours.bytes / theirs.bytes,
        }

    return repeat


def _decoded_by_opencv(data: bytes) -> object:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def in_the_original_shape(out: Path, photos: Sequence[Path], models: Mapping[str, RowModel]) -> Way:
    """One photograph at a time, with the original's pictures written."""
    out.mkdir()
    whole, network, free = Clock(), Clock(), Clock()
    with clocked(*PACKING[:2]) as packing, whole.running():
        by_stage = original_shape.annotate(photos, out, models, network, free)
    return Way(whole.without(packing, free), network.without(packing), bytes_of(out), by_stage)


def report(count: int, in_bare: Mapping[str, float], alone: Way, fused: Way, original: Way) -> dict[str, Any]:
    """The figures of all four ways, and how they stand to the bars."""

    def rates(seconds: Mapping[str, float]) -> dict[str, float]:
        return {name: round(count / value, 2) for name, value in seconds.items()}

    decoding = fused.decoding or Clock()
    against = {
        "times_the_original": round(original.around.seconds / fused.around.seconds, 2),
        "times_the_original_cpu": round(original.around.cpu / fused.around.cpu, 2),
        "overhead": round(fused.around.seconds / fused.in_models.seconds, 4),
        "overhead_cpu": round(fused.around.cpu / fused.in_models.cpu, 4),
        "overhead_without_decoding": round(
            fused.around.without(decoding).seconds / fused.in_models.seconds, 4
        ),
        "bytes_of_the_original": round(fused.bytes / original.bytes, 4),
        "one_at_a_time_over_together": round(alone.around.seconds / fused.around.seconds, 2),
    }
    return {
        "photos_per_second_by_stage": {
            "bare_model": rates(in_bare),
            "one_stage_at_a_time": rates(alone.by_stage),
            "original_shape": rates(original.by_stage),
        },
        "bare_models": {
            "seconds": round(sum(in_bare.values()), 2),
            "photos_per_second": round(count / sum(in_bare.values()), 2),
        },
        "together": fused.summary(count),
        "one_stage_at_a_time": alone.summary(count),
        "original_shape": original.summary(count),
        "bar": BAR,
        "against_the_bar": against,
        "passed": bool(
            against["times_the_original"] >= BAR["times_the_original"]
            and against["overhead"] <= BAR["overhead"]
            and against["bytes_of_the_original"] <= BAR["bytes_of_the_original"]
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, measure, print and write the result file; 0 when all bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--photos", type=int, default=4, help="Photographs of each person.")
    parser.add_argument("--size", type=int, default=512, help="Side of a photograph, px.")
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "annotate.json")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="orchard-annotate-") as folder:
        facts = measure(Path(folder), chosen.people, chosen.photos, chosen.size)
    command = ["python", "-m", "benches.annotate", *(sys.argv[1:] if arguments is None else arguments)]
    packages = ("pylance", "pyarrow", "numpy", "torch", "mediapipe", "opencv-contrib-python", "pillow")
    write_result(chosen.result, command, packages, facts)
    return 0 if facts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
