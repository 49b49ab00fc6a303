"""In which order rows are fed, and that nobody's number changes it: ranks, readers, or a kill."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from assets.feed_order import FedStep, ShuffledEpochs, feed
from assets.feeding import PixelRows, released_pixels
from assets.release import released_rows
from assets.training_rows import LakeRows, need_artifact
from models.diffface.training_data import PhotoData
from models.swap.reading import Readers, in_order, read_batches
from models.swap.training_recipe import TrainingRecipe
from resources.lake.lake import Lake

ROWS = 15
SIZE = 32


def _same(one: FedStep, other: FedStep) -> bool:
    ours, theirs = one.batch, other.batch
    assert ours.conditions_BSS3 is not None
    assert theirs.conditions_BSS3 is not None
    return (
        one.step == other.step
        and np.array_equal(one.places_B, other.places_B)
        and torch.equal(ours.images_BSS3, theirs.images_BSS3)
        and torch.equal(ours.conditions_BSS3, theirs.conditions_BSS3)
        and torch.equal(ours.columns["identity_embedding"], theirs.columns["identity_embedding"])
        and ours.columns["image_id"] == theirs.columns["image_id"]
    )


def test_every_epoch_has_every_row_once_in_another_order() -> None:
    order = ShuffledEpochs(count=10, batch_size=4, seed=5)
    sequence = np.concatenate([order.places(step) for step in range(1, 11)])
    epochs = sequence.reshape(4, 10)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert [order.epoch(step) for step in (1, 3, 4, 6)] == [0, 0, 1, 2]
    other = dataclasses.replace(order, seed=6)
    assert not np.array_equal(other.places(1), order.places(1))
    large = ShuffledEpochs(count=3, batch_size=8)  # a step of several epochs
    assert np.array_equal(np.bincount(large.places(1)[:6]), [2, 2, 2])
    with pytest.raises(ValueError, match="0 rows cannot be fed"):
        ShuffledEpochs(0, 4)


def test_ranks_share_the_one_sequence_of_batches(rows: PixelRows) -> None:
    order, steps = ShuffledEpochs(ROWS, 6, seed=1), range(1, 6)  # two epochs of fifteen rows
    alone = list(feed(rows, order, steps, ahead=0))
    assert [fed.step for fed in alone] == list(steps)
    for ranks in (2, 3):
        parts = [list(feed(rows, order, steps, rank=rank, ranks=ranks)) for rank in range(ranks)]
        for whole, *shares in zip(alone, *parts, strict=True):
            assert np.array_equal(np.concatenate([share.places_B for share in shares]), whole.places_B)
            pixels = torch.cat([share.batch.images_BSS3 for share in shares])
            assert torch.equal(pixels, whole.batch.images_BSS3)
    with pytest.raises(ValueError, match="6 rows cannot be shared equally by 4 processes"):
        next(feed(rows, order, steps, ranks=4))
    with pytest.raises(ValueError, match="the order is of 14 rows, there are 15"):
        next(feed(rows, ShuffledEpochs(14, 6), steps))


def test_any_number_of_readers_gives_the_same_batches_bit_for_bit(rows: PixelRows) -> None:
    order, steps = ShuffledEpochs(ROWS, 4, seed=2), range(1, 9)
    plain = list(feed(rows, order, steps, ahead=0))
    ways = [(Readers("threads", 1), 1, 1), (Readers("threads", 3), 2, 3)]
    ways += [(Readers("processes", count), 1, 1 + count % 2) for count in (1, 2, 3)]
    for readers, ahead, steps_per_take in ways:
        found = list(feed(rows, order, steps, ahead=ahead, readers=readers, steps_per_take=steps_per_take))
        assert len(found) == len(plain)
        assert all(_same(*pair) for pair in zip(found, plain, strict=True)), readers


def test_a_denoiser_learns_from_the_lakes_pixels(lake: Lake) -> None:
    """DiffFace's training data take the reader as they take an array."""
    pixels = released_pixels(lake, size=SIZE)
    identity = LakeRows(pixels.reader, "identity_embedding", (-1,))
    _, people = released_rows(lake, need_artifact(lake, "release"), "train")
    data = PhotoData(pixels, identity, people, identity_source="other_photo")
    everything = np.arange(ROWS)
    held = PhotoData(pixels[everything], identity[everything], people, identity_source="other_photo")
    recipe = TrainingRecipe(batch_size=4, seed=7)
    for found, expected in zip(
        read_batches(data, recipe, range(4), range(1, 5), readers=Readers("processes", 1)),
        read_batches(held, recipe, range(4), range(1, 5)),
        strict=True,
    ):
        assert torch.equal(found.batch.images_BHW3, expected.batch.images_BHW3)
        assert torch.equal(found.batch.identity_BD, expected.batch.identity_BD)
        assert found.batch.images_BHW3.float().std() > 20


def _told(fed: FedStep) -> str:
    """The step and a digest of its pixels."""
    assert fed.batch.conditions_BSS3 is not None
    pixels = fed.batch.images_BSS3.numpy().tobytes() + fed.batch.conditions_BSS3.numpy().tobytes()
    return f"{fed.step} {hashlib.sha256(pixels).hexdigest()}"


KILLED = """
    import hashlib, os, pickle, signal, sys
    from pathlib import Path
    from assets.feed_order import ShuffledEpochs, feed
    from models.swap.reading import Readers

    if __name__ == "__main__":
        rows = pickle.loads(Path(sys.argv[1]).read_bytes())
        order = ShuffledEpochs(len(rows), 4, seed=3)
        for fed in feed(rows, order, range(1, 9), readers=Readers("processes", 2)):
            pixels = fed.batch.images_BSS3.numpy().tobytes() + fed.batch.conditions_BSS3.numpy().tobytes()
            print(fed.step, hashlib.sha256(pixels).hexdigest(), flush=True)
            if fed.step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_feed_killed_in_the_middle_of_an_epoch_goes_on_with_the_same_batches(
    rows: PixelRows, tmp_path: Path
) -> None:
    script, pickled = tmp_path / "killed.py", tmp_path / "rows.pkl"
    script.write_text(textwrap.dedent(KILLED), encoding="utf-8")
    pickled.write_bytes(pickle.dumps(rows))
    unbroken = [_told(fed) for fed in feed(rows, ShuffledEpochs(ROWS, 4, seed=3), range(1, 9))]
    killed = subprocess.run(
        [sys.executable, str(script), str(pickled)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,  # until all that hold the other end are gone, the readers too
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout.splitlines() == unbroken[:2]  # an epoch is 3.75 steps
    resumed = feed(rows, ShuffledEpochs(ROWS, 4, seed=3), range(3, 9), readers=Readers("threads", 2))
    assert [_told(fed) for fed in resumed] == unbroken[2:]


def test_processes_refuse_what_they_cannot_be_sent() -> None:

    with pytest.raises(TypeError, match="cannot be read by processes"):
        next(iter(in_order(lambda item: item, range(3), readers=Readers("processes", 1))))
    with pytest.raises(ValueError, match="at least one reader"):
        Readers("threads", 0)
