"""Memory for batches of pictures, used again as soon as nobody looks at it any more.

Fresh memory costs up to a third of a photograph's decoding: the system hands it out page by page, and the
allocator gives megabytes back at once. Here it stays with the process, as much as was ever in use at a time.
"""

from __future__ import annotations

import weakref
from collections import deque
from math import prod

import numpy as np

KEPT = 64
"""Pieces of one size that are kept at most; more in use at a time are ordinary memory."""

_free: dict[int, deque[np.ndarray]] = {}


def recycled(*shape: int) -> np.ndarray:
    """An uint8 array with whatever was in its memory before.

    Its memory is handed out again when the array is gone and everything that shares memory with it: views,
    and tensors made by `torch.from_numpy`. Safe in several threads.
    """
    size = prod(shape)
    pieces = _free.setdefault(size, deque(maxlen=KEPT))
    try:
        piece = pieces.pop()
    except IndexError:
        piece = np.empty(size, np.uint8)
    # through a memoryview, or all views would refer to `piece` itself
    lent = np.frombuffer(piece.data, np.uint8)
    weakref.finalize(lent, pieces.append, piece).atexit = False
    return lent.reshape(shape)
