"""The EXIF orientation of a photograph, and nothing else of its EXIF data.

A camera's EXIF directory may hold 65,535 entries, each of which points at as many bytes as it likes, and a
library that reads all of them reads a small file into a large memory. So only the one entry that matters is
looked for: time grows with the number of entries, memory with nothing.

Sources: EXIF 2.32 §4.6.2 (directory) and table 6 (orientation), TIFF 6.0 §2.
"""

from __future__ import annotations

import struct

UPRIGHT = 1
"""Orientation of a picture that needs no turning."""

_TAG = 0x0112
_HEADER = b"Exif\0\0"
# Unsigned types whose value stands in the entry itself: byte, short and long.
_VALUE_FORMATS = {1: "B", 3: "H", 4: "I"}
_ENTRY_SIZE = 12


def read_orientation(exif: object) -> int:
    """Orientation 1..8 of EXIF data; 1 for anything absent or malformed.

    A broken block must not cost the photograph, and a reader that guesses would turn it wrongly, so there is
    no error to raise and no second directory to try.

    Args:
        exif: bytes from the TIFF header on, with or without `Exif` before it. Anything that is no bytes
            object counts as absent.
    """
    if not isinstance(exif, bytes):
        return UPRIGHT
    block = exif.removeprefix(_HEADER)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return UPRIGHT
    magic, directory = struct.unpack_from(f"{order}HI", block, 2)
    if magic != 42 or directory + 2 > len(block):
        return UPRIGHT
    (count,) = struct.unpack_from(f"{order}H", block, directory)
    first = directory + 2
    for start in range(first, min(first + count * _ENTRY_SIZE, len(block) - _ENTRY_SIZE + 1), _ENTRY_SIZE):
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, start)
        if tag == _TAG:
            return _orientation(block, order, start, kind, values)
    return UPRIGHT


def _orientation(block: bytes, order: str, start: int, kind: int, values: int) -> int:
    """The value of the directory entry at `start`, if it is one that EXIF knows."""
    if values != 1 or kind not in _VALUE_FORMATS:
        return UPRIGHT
    (value,) = struct.unpack_from(f"{order}{_VALUE_FORMATS[kind]}", block, start + 8)
    return value if 1 <= value <= 8 else UPRIGHT
