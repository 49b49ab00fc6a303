"""Progress for people: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from pipeline.execution import Progress

PLAIN_SECONDS = 5.0
"""Without a terminal a stage prints a line at most this often."""


def make_progress(quiet: bool = False) -> Progress:
    """Nothing when quiet, a bar on a terminal, lines on standard error otherwise."""
    if quiet:
        return Progress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()


class LineProgress(Progress):
    """Plain lines on standard error, for logs."""

    def __init__(self) -> None:
        self.todo: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.printed = 0.0

    def start(self, stage: str, rows: int, shards: int) -> None:
        """Say how much there is to do."""
        self.todo[stage], self.done[stage] = rows, 0
        self.printed = time.monotonic()
        if rows:
            self.say(f"{stage}: {rows} rows in {shards} shards")

    def advance(self, stage: str, rows: int) -> None:
        """Say how far it is, now and then."""
        self.done[stage] += rows
        if time.monotonic() - self.printed > PLAIN_SECONDS:
            self.printed = time.monotonic()
            self.say(f"{stage}: {self.done[stage]}/{self.todo[stage]} rows")

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)

    def finish(self, stage: str, computed: int, seconds: float) -> None:
        """Say what was done."""
        rate = f", {computed / seconds:.1f} rows/s" if computed and seconds > 0 else ""
        self.say(f"{stage}: {computed} computed in {seconds:.1f} s{rate}")


class BarProgress(LineProgress):
    """A bar per stage on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self.bars = RichProgress(
            TextColumn("{task.description:>20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        self.tasks: dict[str, TaskID] = {}

    def start(self, stage: str, rows: int, shards: int) -> None:
        """Show a bar."""
        self.bars.start()
        self.tasks[stage] = self.bars.add_task(stage, total=rows)

    def advance(self, stage: str, rows: int) -> None:
        """Move it."""
        self.bars.advance(self.tasks[stage], rows)

    def say(self, text: str) -> None:
        """Print above the bars."""
        self.bars.console.print(text, highlight=False, style="dim")

    def finish(self, stage: str, computed: int, seconds: float) -> None:
        """Leave the finished bar standing."""
        task = self.tasks[stage]
        self.bars.update(task, completed=self.bars.tasks[task].total)
        self.bars.stop()
