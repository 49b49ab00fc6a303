"""Memory comes back when nobody looks at it, and never before."""

from __future__ import annotations

import gc
import threading

import numpy as np
import torch

from resources.photos.recycling import KEPT, recycled


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_the_array_is_gone() -> None:
    first = recycled(3, 5, 7, 3)
    assert (first.shape, first.dtype, first.flags.c_contiguous, first.flags.writeable) == (
        (3, 5, 7, 3),
        np.uint8,
        True,
        True,
    )
    was = place(first)
    second = recycled(3, 5, 7, 3)
    assert place(second) != was
    del first
    third = recycled(5, 3, 7, 3)  # as large
    assert place(third) == was
    assert place(second) != was


def test_whatever_shares_the_memory_keeps_it() -> None:
    """Views of arrays and tensors, and numpy's views of these."""
    makers = (
        lambda lent: lent[1:],
        lambda lent: lent.reshape(-1)[::2],
        torch.from_numpy,
        lambda lent: torch.from_numpy(lent)[1, 2:],
        lambda lent: torch.from_numpy(lent).permute(2, 0, 1).numpy(),
        lambda lent: torch.from_numpy(lent).view(torch.int8).detach(),
    )
    for number, make in enumerate(makers):
        side = 11 + number
        lent = recycled(side, side, 3)
        was = place(lent)
        lent[...] = number
        kept = make(lent)
        del lent
        gc.collect()
        others = [recycled(side, side, 3) for _ in range(3)]
        assert was not in [place(other) for other in others], number
        for other in others:
            other[...] = 200
        assert int(kept.max()) == number, number
        del kept
        gc.collect()
        assert place(recycled(side, side, 3)) == was, number


def test_threads_never_share_and_memory_is_bounded() -> None:
    wrong: list[int] = []

    def work(value: int) -> None:
        for _ in range(300):
            lent = recycled(64, 64)
            lent[...] = value
            if (lent != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    many = [recycled(17, 19) for _ in range(KEPT + 9)]
    places = {place(lent) for lent in many}
    assert len(places) == KEPT + 9
    del many
    again = [recycled(17, 19) for _ in range(KEPT)]
    assert {place(lent) for lent in again} <= places
