"""Photographs per second that reach a training: from the lake, from a tree of PNG, and what cores can decode.

Run `python -m benches.feeding`; the figures go to benches/results/feeding.json. All ways read the same
rendered photographs with as many reading processes, in turn and in the same run. Starting is not counted: the
clock starts when every reader has read some batches.

The *decode limit* is the same JPEG bytes decoded from memory in as many processes, and nothing else: by
simplejpeg into one buffer, which is the fastest that we know, and by OpenCV.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import simplejpeg

from assets.condition import OWN_CONDITION
from assets.feed_order import ShuffledEpochs, feed
from assets.feeding import PixelRows
from benches import png_tree
from benches.feeding_lake import Kept, keep
from benches.measuring import Repetition, write_result
from models.swap.reading import Readers
from resources.compute.device import limit_threads

BAR = {"times_the_png_tree": 5.0, "share_of_the_decode_limit": 0.8}
"""Photographs with condition images against all that the tree holds of a row; photographs against the
limit."""

IDENTITY = ("identity_embedding",)
DRAWN = (*IDENTITY, "landmarks_68", "iris_10")
AHEAD = 2
KINDS = ("processes", "threads")
TREES = ("photograph and condition image", "all pictures")


def rows_per_second(batches: Iterator[int], seconds: float, warm: int) -> float:
    """Rows a second, after `warm` batches, over at least so many seconds."""
    for _ in range(warm):
        next(batches)
    rows, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        rows += next(batches)
    return rows / passed if rows else 0.0


def fed(pixels: PixelRows, batch_size: int, readers: Readers, steps_per_take: int) -> Iterator[int]:
    """Rows of one step after another, as a training gets them."""
    order = ShuffledEpochs(len(pixels), batch_size, seed=1)
    for step in feed(
        pixels, order, range(1, 10**6), ahead=AHEAD, readers=readers, steps_per_take=steps_per_take
    ):
        yield len(step.batch.images_BSS3)


def by_simplejpeg(data: bytes, buffer: np.ndarray) -> None:
    """Into the same memory each time."""
    simplejpeg.decode_jpeg(data, buffer=buffer)


def by_opencv(data: bytes, buffer: np.ndarray) -> None:
    """Into memory of its own."""
    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


DECODERS: dict[str, Callable[[bytes, np.ndarray], None]] = {
    "decode limit": by_simplejpeg,
    "decode limit of OpenCV": by_opencv,
}


def decode_limit(kept: Kept, decoder: str, processes: int, seconds: float, most: int = 256) -> float:
    """Photographs a second that so many processes decode from memory."""
    places = np.arange(min(most, len(kept.reader)))
    files = kept.reader.read(places, ["image"])["image"].to_pylist()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(_decode, [(decoder, files, 0.1)] * processes))  # started, libraries loaded
        return sum(pool.map(_decode, [(decoder, files, seconds)] * processes))


def _decode(given: tuple[str, list[bytes], float]) -> float:
    decoder, files, seconds = given
    cv2.setNumThreads(1)
    decode, buffer = DECODERS[decoder], _buffer(files)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        decode(files[done % len(files)], buffer)
        done += 1
    return done / passed


def _buffer(files: list[bytes]) -> np.ndarray:
    height, width = simplejpeg.decode_jpeg_header(files[0])[:2]
    return np.empty((height, width, 3), np.uint8)


def processor_time(kept: Kept, drawn: PixelRows, plain: PixelRows, repeats: int) -> dict[str, float]:
    """Milliseconds of one core for a row, each way in this thread alone: the least of some batches.

    It says what a busy machine's clock cannot. Lance's own threads are counted in.
    """
    files = kept.reader.read(np.arange(min(64, len(kept.reader))), ["image"])["image"].to_pylist()
    rng = np.random.default_rng(5)
    trees = {name: png_tree.PngTree(kept.photos, name == "all pictures") for name in TREES}
    steps = [rng.integers(len(kept.reader), size=(4, 16)) for _ in range(repeats + 1)]
    buffer = _buffer(files)
    ways: dict[str, tuple[int, Callable[[np.ndarray], object]]] = {
        name: (len(files), lambda _, decode=decode: [decode(data, buffer) for data in files])
        for name, decode in DECODERS.items()
    } | {
        "lake, photographs": (steps[0].size, lambda places: plain.read_together(list(places))),
        "lake, with condition images": (steps[0].size, lambda places: drawn.read_together(list(places))),
    }
    for name, tree in trees.items():
        ways[f"png tree, {name}"] = (8, lambda places, tree=tree: [tree[int(row)] for row in places[0][:8]])
    found: dict[str, list[float]] = {name: [] for name in ways}
    for places in steps:
        for name, (rows, way) in ways.items():
            started = time.process_time()
            way(places)
            found[name].append(1e3 * (time.process_time() - started) / rows)
    return {name: round(min(values[1:]), 3) for name, values in found.items()}


def starvation(batches: Iterator[int], step_seconds: float, steps: int, warm: int) -> float:
    """Share of a training's time that it waits for data when a step takes so long on the device.

    The first steps are not counted, but take as long: what is read ahead is there as it is later on.
    """
    for _ in range(warm):
        next(batches)
        time.sleep(step_seconds)
    waited, started = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(step_seconds)  # the device computes, this core does not
    return waited / (time.perf_counter() - started)


def takes(kept: Kept, rows: int, repeats: int) -> dict[str, float]:
    """Milliseconds a row of random photographs: one take sorted, one unsorted, and a take for each row."""
    snapshot, columns = kept.reader.snapshot, ["image", "landmarks_68", "parsing"]
    rng = np.random.default_rng(3)
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "sorted, one take": lambda places: snapshot.take(np.sort(places), columns),
        "unsorted, one take": lambda places: snapshot.take(places, columns),
        "a take for each row": lambda places: [snapshot.take(place[None], columns) for place in places],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        places = rng.choice(len(kept.reader), min(rows, len(kept.reader)), replace=False)
        for name, way in ways.items():
            started = time.perf_counter()
            way(places)
            if repeat:  # the first one opens files
                found[name].append(1e3 * (time.perf_counter() - started) / rows)
    return {name: round(median(values), 3) for name, values in found.items()}


def measure(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures of one machine."""
    kept = keep(root, chosen.photographs, chosen.rows, chosen.size)
    size, batch, seconds = chosen.size, chosen.batch, chosen.seconds
    plain = PixelRows(kept.reader, size, columns=IDENTITY)
    drawn = PixelRows(kept.reader, size, OWN_CONDITION.recipe, DRAWN)
    together = max(1, chosen.rows_per_take // batch)
    warm = 2 * chosen.workers * together
    rounds: list[dict[str, float]] = []
    for _ in range(chosen.rounds):
        found = {name: decode_limit(kept, name, chosen.workers, seconds) for name in DECODERS}
        for kind in chosen.kinds:
            readers = Readers(kind, chosen.workers)
            for name, pixels in (("photographs", plain), ("with condition images", drawn)):
                ours = fed(pixels, batch, readers, together)
                found[f"lake, {kind}, {name}"] = rows_per_second(ours, seconds, warm)
                del ours
        for name in TREES:
            theirs = png_tree.batches(kept.photos, batch, chosen.workers, name == "all pictures")
            found[f"png tree, {name}"] = rows_per_second(theirs, seconds, 2 * chosen.workers)
            del theirs
        rounds.append(found)
    rates = {name: round(median(item[name] for item in rounds), 1) for name in rounds[0]}
    best = {
        name: max(rates[f"lake, {kind}, {name}"] for kind in chosen.kinds)
        for name in ("photographs", "with condition images")
    }
    quicker = max(chosen.kinds, key=lambda kind: rates[f"lake, {kind}, with condition images"])
    readers = Readers(quicker, chosen.workers)
    waits = {
        f"device takes {share:.0%} of what is fed": round(
            starvation(
                fed(drawn, batch, readers, together),
                batch / best["with condition images"] / share,
                chosen.steps,
                warm,
            ),
            4,
        )
        for share in (0.5, 0.8, 0.95)
    }
    against = {
        "times_the_png_tree": round(best["with condition images"] / rates["png tree, all pictures"], 2),
        "times_the_png_tree_photograph_and_condition_alone": round(
            best["with condition images"] / rates["png tree, photograph and condition image"], 2
        ),
        "share_of_the_decode_limit": round(best["photographs"] / rates["decode limit"], 3),
        "share_of_the_decode_limit_of_opencv": round(
            best["photographs"] / rates["decode limit of OpenCV"], 3
        ),
        "share_of_the_decode_limit_with_condition_images": round(
            best["with condition images"] / rates["decode limit"], 3
        ),
    }
    alone = processor_time(kept, drawn, plain, chosen.repeats)
    drawing = alone["lake, with condition images"]
    against |= {
        "times_the_png_tree_cpu": round(alone["png tree, all pictures"] / drawing, 2),
        "times_the_png_tree_photograph_and_condition_alone_cpu": round(
            alone["png tree, photograph and condition image"] / drawing, 2
        ),
        "share_of_the_decode_limit_cpu": round(alone["decode limit"] / alone["lake, photographs"], 3),
        "share_of_the_decode_limit_with_condition_images_cpu": round(alone["decode limit"] / drawing, 3),
    }
    return {
        "photographs": {"different": chosen.photographs, "rows": chosen.rows, "px": size},
        "reading": {"processes": chosen.workers, "batch": batch, "rows_per_take": together * batch},
        "rows_per_second": rates,
        "processor_ms_per_row": alone,
        "rounds": len(rounds),
        "share_of_time_waiting": {"readers": quicker, **waits},
        "random_takes_ms_per_row": takes(kept, chosen.rows_per_take, 10),
        "bar": BAR,
        "against_the_bar": against,
        "passed": all(against[name] >= value for name, value in BAR.items()),
    }


def quick(folder: Path) -> Repetition:
    """Sixteen photographs of 128 px in this thread: seconds a row, the lake's over the tree's."""
    kept = keep(folder, 8, 16, 128)
    drawn = PixelRows(kept.reader, 128, OWN_CONDITION.recipe, DRAWN)
    places, tree = np.arange(16), png_tree.PngTree(kept.photos, everything=True)

    def repeat() -> dict[str, float]:
        started = time.perf_counter()
        drawn.read(places)
        ours, started = time.perf_counter() - started, time.perf_counter()
        for place in places:
            tree[int(place)]
        return {"seconds of a row, the lake over the PNG tree": ours / (time.perf_counter() - started)}

    return repeat


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=int, default=128, help="different ones")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512, help="side of a photograph, px")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step")
    parser.add_argument("--rows-per-take", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="reading processes or threads")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what reads the lake")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each way is measured")
    parser.add_argument("--rounds", type=int, default=3, help="how often; medians are told")
    parser.add_argument("--repeats", type=int, default=10, help="batches for the processor's time")
    parser.add_argument("--steps", type=int, default=60, help="simulated steps for the share of waiting")
    parser.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "feeding.json")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Render, measure, print and write the result file; 0 when the bars are met."""
    chosen = arguments(given)
    limit_threads(1)
    with tempfile.TemporaryDirectory(prefix="orchard-feeding-") as folder:
        facts = measure(Path(folder), chosen)
    command = ["python", "-m", "benches.feeding", *(sys.argv[1:] if given is None else given)]
    packages = ("pylance", "pyarrow", "numpy", "torch", "opencv-contrib-python", "simplejpeg", "pillow")
    write_result(chosen.result, command, packages, facts)
    return 0 if facts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
