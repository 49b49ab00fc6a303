"""A loader in the shape of the published one: torch's DataLoader over a tree of pictures, a file per fact.

As there, every picture is opened by Pillow and made RGB. It is generous where the published one is not:
pictures stay uint8, none is resized, no blur is drawn that nothing looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benches.feeding_lake import condition_of, pictures_of


class PngTree(Dataset):
    """Photograph, condition image and identity embedding; with `everything`, all that is drawn of a row."""

    def __init__(self, photos: Sequence[Path], everything: bool) -> None:
        self._photos, self._everything = photos, everything

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        photo = self._photos[row]
        pictures = {"image": photo, "condition": condition_of(photo)}
        if self._everything:
            pictures |= pictures_of(photo)
        found = {kind: torch.from_numpy(_read(path)) for kind, path in pictures.items()}
        embedding = photo.parent / "identity_embedding" / f"{photo.stem}.npy"
        return found | {"identity": torch.from_numpy(np.load(embedding))}


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def batches(photos: Sequence[Path], batch_size: int, processes: int, everything: bool) -> Iterator[int]:
    """Rows of one batch after another, shuffled epoch after epoch, read by so many processes."""
    loader = DataLoader(
        PngTree(photos, everything),
        batch_size=batch_size,
        shuffle=True,
        num_workers=processes,
        multiprocessing_context="forkserver",
        persistent_workers=True,
        drop_last=True,
    )
    while True:
        for batch in loader:
            yield len(batch["image"])
