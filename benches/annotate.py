"""Photographs per second of each annotation stage: fused, one at a time, bare, and in the original's shape.

Run `python -m benches.annotate`; the figures go to benches/results/annotate.json. The photographs are
rendered portraits. All four ways call the same loaded models and time them in the same run, so that what lies
around them is known even on a busy machine: wall time minus the time inside the models. Packing of masks,
which happens inside our models, is ours and counted as such. Loading of models is not counted anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import assets.batches
import assets.condition
import assets.masks
from assets.planner import Planner
from assets.stage import Row, RowModel, RowOutcome, RowStage, StageContext, StageGraph
from benches import original_shape
from benches.measuring import write_result
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
BAR = {"times_the_original": 5.0, "overhead": 0.15, "bytes_of_the_original": 1 / 3}
"""At least so many times quicker around the models, so little over them, so few of the original's bytes."""


class Clock:
    """Adds up the time inside something."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to this clock."""

        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return call


@contextmanager
def clocked(*functions: tuple[ModuleType, str]) -> Iterator[Clock]:
    """A clock on functions as other code finds them in these modules."""
    clock = Clock()
    originals = [getattr(module, name) for module, name in functions]
    for (module, name), original in zip(functions, originals, strict=True):
        setattr(module, name, clock.timed(original))
    try:
        yield clock
    finally:
        for (module, name), original in zip(functions, originals, strict=True):
            setattr(module, name, original)


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


def in_the_lake(root: Path, photos: Path, graph: StageGraph, models: Mapping[str, RowModel], together: bool):
    """Annotate a new lake; its figures, and the digests of what came out."""
    lake = Lake.open(root, create=True)
    ingest(lake, photos, consent=Consent.SYNTHETIC, shard_size=256)
    clocks = {name: Clock() for name in models}
    timed = timed_graph(graph, models, clocks)
    timed.prepare(lake)
    before = bytes_of(root)
    stages: dict[str, float] = {}
    with ExitStack() as stack:
        decoding = stack.enter_context(clocked(*DECODING))
        packing = stack.enter_context(clocked(*PACKING))
        started = time.perf_counter()
        for names in [timed.names] if together else [(name,) for name in timed.names]:
            stage_started = time.perf_counter()
            run_stages(lake, timed, names, device="cpu")
            stages[names[0]] = time.perf_counter() - stage_started
        wall = time.perf_counter() - started
    planner = Planner(lake, timed)
    table = planner.table("faces")
    figures: dict[str, Any] = {
        "seconds": wall,
        "in_models": sum(clock.seconds for clock in clocks.values()) - packing.seconds,
        "decoding": decoding.seconds,
        "packing_masks": packing.seconds,
        "bytes": bytes_of(root) - before,
        "ok_rows": {name: int(table.stages[name].ok.sum()) for name in timed.names},
    }
    if not together:
        figures["by_stage"] = stages
    return figures, [table.shard_digests(name) for name in timed.names]


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
    scratch = Lake.open(root / "scratch", create=True)
    models = {
        stage.name: stage.load(StageContext(scratch, stage.resolve_weights(), "cpu", lambda text: None))
        for stage in stages
    }
    bare(photos[:2], stages, models)  # the first call of a network is slower
    alone, alone_digests = in_the_lake(root / "alone", folder, graph, models, together=False)
    fused, fused_digests = in_the_lake(root / "fused", folder, graph, models, together=True)
    if alone_digests != fused_digests:
        raise RuntimeError("stages run together and one at a time gave different rows")
    in_bare = bare(photos, stages, models)
    out = root / "original"
    out.mkdir()
    with clocked(*PACKING[:2]) as packing:
        whole, network = original_shape.annotate(photos, out, models)
    original = {
        "seconds": sum(whole.values()) - packing.seconds,
        "in_models": sum(network.values()) - packing.seconds,
        "bytes": bytes_of(out),
        "by_stage": whole,
    }
    return report(len(photos), size, in_bare, alone, fused, original)


def report(
    count: int,
    size: int,
    in_bare: Mapping[str, float],
    alone: Mapping[str, Any],
    fused: Mapping[str, Any],
    original: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures of all four ways, and how they stand to the bars."""

    def rates(seconds: Mapping[str, float]) -> dict[str, float]:
        return {name: round(count / value, 2) for name, value in seconds.items()}

    def around(figures: Mapping[str, Any]) -> float:
        return figures["seconds"] - figures["in_models"]

    def summary(figures: Mapping[str, Any]) -> dict[str, Any]:
        shown = {name: round(figures[name], 3) for name in ("seconds", "in_models")}
        shown |= {name: round(figures[name], 3) for name in ("decoding", "packing_masks") if name in figures}
        shown |= {"around_models_ms_per_photo": round(1e3 * around(figures) / count, 2)}
        if "bytes" in figures:
            shown["bytes_per_photo"] = round(figures["bytes"] / count)
        return shown | {"photos_per_second": round(count / figures["seconds"], 2)}

    against = {
        "times_the_original": round(around(original) / around(fused), 2),
        "overhead": round(around(fused) / fused["in_models"], 4),
        "overhead_without_decoding": round((around(fused) - fused["decoding"]) / fused["in_models"], 4),
        "bytes_of_the_original": round(fused["bytes"] / original["bytes"], 4),
        "one_at_a_time_over_together": round(around(alone) / around(fused), 2),
    }
    return {
        "photographs": {"count": count, "px": size, "format": "JPEG"},
        "profile": PROFILE,
        "ok_rows": fused["ok_rows"],
        "photos_per_second_by_stage": {
            "bare_model": rates(in_bare),
            "one_stage_at_a_time": rates(alone["by_stage"]),
            "original_shape": rates(original["by_stage"]),
        },
        "bare_models": {"seconds": round(sum(in_bare.values()), 3)},
        "together": summary(fused),
        "one_stage_at_a_time": summary(alone),
        "original_shape": summary(original),
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
