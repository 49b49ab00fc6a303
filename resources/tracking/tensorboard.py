"""A training's curves and validation pictures as TensorBoard events.

Events are a copy: the losses file and the grids are the originals. So a resumed run removes the events of the
killed one and writes those of its finished steps anew, and no step is ever told twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from PIL import Image

from resources.tracking.layout import EVENTS_FOLDER, GRIDS_FOLDER, grid_name

if TYPE_CHECKING:  # torch loads seconds later, when something is trained
    from torch.utils.tensorboard.writer import SummaryWriter

FINISHED_NAME = "events.out.tfevents.0"
"""Name of the events of a finished run: TensorBoard's own holds machine, process and second."""

GRID_TAG = "validation"


class TrainingEvents:
    """Events of one run, written under `run/tensorboard`; a context manager, which closes them."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._writer: SummaryWriter | None = None

    def begin(self, done: Sequence[Mapping[str, float]]) -> None:
        """Start anew with the numbers of the steps that are done, and the grids that lie in the folder."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = self._run / EVENTS_FOLDER
        if folder.exists():
            shutil.rmtree(folder)
        self._writer = SummaryWriter(str(folder))
        for step, numbers in enumerate(done, start=1):
            self.scalars(step, numbers)
            grid = self._run / GRIDS_FOLDER / grid_name(step)
            if grid.is_file():
                self.grid(step, grid)

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step by name."""
        writer = self._begun()
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    def grid(self, step: int, path: Path) -> None:
        """Add a validation picture, a PNG file."""
        import numpy as np

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._begun().add_image(GRID_TAG, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Let everything so far be seen."""
        self._begun().flush()

    def __enter__(self) -> TrainingEvents:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            folder = self._run / EVENTS_FOLDER
            (written,) = folder.iterdir()
            written.rename(folder / FINISHED_NAME)

    def _begun(self) -> SummaryWriter:
        assert self._writer is not None  # `begin` comes first
        return self._writer
