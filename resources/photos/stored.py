"""Photographs of the lake, decoded again without asking again whether they are sound.

`decoding.py` looks at every byte of a file of unknown origin. What lies in the lake has been through that and
its SHA-256 was kept: bytes that are still those need no second inspection. A common JPEG is then decoded by
simplejpeg, which is faster than Pillow, can write where the pixels are wanted and, both being libjpeg-turbo,
gives the same pixels.
"""

from __future__ import annotations

import hashlib

import numpy as np
import simplejpeg

from resources.photos.decoding import decode_upright
from resources.photos.reasons import Reason, RowError

_STAND_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""JPEG markers without a length: TEM, restarts, and the start of the picture."""

_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
"""Markers of a frame's header: baseline, extended sequential, progressive."""


def decode_stored(
    data: bytes, sha256: str, orientation: int | None = 1, into: np.ndarray | None = None
) -> np.ndarray:
    """Upright RGB of a photograph of the lake, (height, width, 3) uint8, as `decode_upright` gives it.

    Args:
        data: the bytes that were ingested.
        sha256: their hex digest, as the ingest recorded it.
        orientation: the EXIF orientation that the ingest recorded.
        into: where the pixels are wanted, (height, width, 3) uint8 in one piece. It is what is returned where
            a common JPEG has just that size, and may have been written into where it is not.

    Raises:
        RowError: `undecodable`, where the bytes are no longer those that were ingested.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RowError(Reason.UNDECODABLE, f"the bytes are not those that were ingested, SHA-256 {sha256}")
    if orientation in (None, 1) and is_plain_jpeg(data):
        try:
            if into is not None and into.shape[:2] == simplejpeg.decode_jpeg_header(data)[:2]:
                simplejpeg.decode_jpeg(data, buffer=into)
                return into
            return simplejpeg.decode_jpeg(data)
        except ValueError:  # sound, as the ingest saw, but not to every decoder
            pass
    return decode_upright(data)


def is_plain_jpeg(data: bytes) -> bool:
    """Whether the bytes are a JPEG of three components with eight bits each, by its first frame header."""
    if data[:2] != b"\xff\xd8":
        return False
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            return data[place + 4] == 8 and data[place + 9] == 3
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _STAND_ALONE:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
