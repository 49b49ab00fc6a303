"""What `orchard swap` says when it is done: one sentence, or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from assets.photo_swaps.run import RunSummary
from pipeline.options import print_json

if TYPE_CHECKING:
    from assets.photo_swaps.clips import ClipResult


def tell_many(summary: RunSummary, folder: Path, *, as_json: bool) -> None:
    """Say what became of many pairs."""
    told: dict[str, Any] = {
        "out": str(folder),
        "manifest": str(summary.manifest),
        "swapped": summary.swapped,
        "skipped": summary.skipped,
        "failed": len(summary.failed),
        "reasons": dict(summary.reasons),
    }
    if as_json:
        print_json(told)
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.reasons.items()))
    typer.echo(
        f"{folder}: {summary.swapped} swapped, {summary.skipped} there already, {len(summary.failed)} failed"
        + (f" ({reasons}; {summary.manifest} says which)" if reasons else "")
    )


def tell_clip(result: ClipResult, out: Path, *, as_json: bool) -> None:
    """Say what became of a clip."""
    told = result.manifest
    if as_json:
        runs = {"out": str(out), "computed": result.computed, "kept": result.kept}
        print_json(runs | told.model_dump(mode="json"))
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(told.reasons.items()))
    typer.echo(
        f"{out}: {told.swapped} of {told.frames} frames swapped, {result.kept} kept from an earlier run"
        + (f" ({reasons}; {out}.json says which)" if reasons else "")
    )
