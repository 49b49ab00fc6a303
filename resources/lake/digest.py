"""Digests and fingerprints: what a result was computed from, and what came out.

A fingerprint is not a hash of its parts but the parts themselves, end to end: 8 bytes each for code,
config and weights, then the 16-byte digest of every upstream. Comparing two fingerprints therefore says
*which* part changed, and planning compares bytes instead of hashing millions of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from resources.lake.arrow import compute as pc
from resources.lake.schema import DIGEST_BYTES, Column

PART_BYTES = 8
RECIPE_BYTES = 3 * PART_BYTES


def digest_bytes(*parts: bytes, size: int = DIGEST_BYTES) -> bytes:
    """BLAKE2b of length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    hasher = hashlib.blake2b(digest_size=size)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def digest_json(value: Any, size: int = DIGEST_BYTES) -> bytes:
    """Digest of a JSON-serialisable value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode(), size=size)


def recipe_prefix(stage: str, code_version: str, config: Mapping[str, Any], weights: str) -> bytes:
    """First 24 bytes of a fingerprint: code, config and weights of a stage, 8 bytes each."""
    return (
        digest_bytes(stage.encode(), code_version.encode(), size=PART_BYTES)
        + digest_json(dict(config), size=PART_BYTES)
        + digest_bytes(weights.encode(), size=PART_BYTES)
    )


def combine_fingerprints(prefix: bytes, upstream_digests: Sequence[pa.Array]) -> pa.Array:
    """Expected fingerprints of rows: the prefix followed by each upstream's digest.

    Each array has one entry per row; a null digest (nothing computed upstream yet) gives a null.
    """
    if not upstream_digests:
        raise ValueError("a row stage needs at least one upstream")
    columns = [digest.cast(pa.binary()) for digest in upstream_digests]
    return pc.binary_join_element_wise(pa.scalar(prefix, pa.binary()), *columns, pa.scalar(b"", pa.binary()))


def explain_difference(stored: bytes, expected: bytes, upstreams: Sequence[str]) -> list[str]:
    """Names of the parts in which two fingerprints differ, e.g. ["config", "input:faces"]."""
    if len(stored) != len(expected):
        return ["inputs_declared"]
    changed = []
    for index, name in enumerate(("code_version", "config", "weights")):
        part = slice(index * PART_BYTES, (index + 1) * PART_BYTES)
        if stored[part] != expected[part]:
            changed.append(name)
    for index, upstream in enumerate(upstreams):
        start = RECIPE_BYTES + index * DIGEST_BYTES
        if stored[start : start + DIGEST_BYTES] != expected[start : start + DIGEST_BYTES]:
            changed.append(f"input:{upstream}")
    return changed


def row_digest(values: Mapping[str, Any], columns: Iterable[Column]) -> bytes:
    """Digest of one row's output values, floats rounded to the column's quantum first.

    Raises ValueError when a float value is not finite (callers quarantine such rows before).
    """
    parts: list[bytes] = []
    for column in columns:
        parts.append(column.name.encode())
        parts.append(_value_bytes(values.get(column.name), column))
    return digest_bytes(*parts)


def quarantine_digest(reason: str) -> bytes:
    """Digest of a quarantined row: a different reason is a different result to those downstream."""
    return digest_bytes(b"quarantined", reason.encode())


def shard_digest(row_digests: Iterable[tuple[str, bytes]]) -> str:
    """Data version of a shard: digest over (row key, row digest) in key order, as 32 hex characters."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for key, digest in sorted(row_digests):
        hasher.update(digest_bytes(key.encode(), digest))
    return hasher.hexdigest()


def _value_bytes(value: Any, column: Column) -> bytes:
    if value is None:
        return b"\x00null"
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    array = np.asarray(value)
    if column.quantum is not None:
        if not np.isfinite(array).all():
            raise ValueError(f"column {column.name} holds a value that is not finite")
        # rint(-0.2) is -0.0: adding 0 makes both zeros the same bytes
        array = np.rint(array.astype(np.float64) / column.quantum).astype(np.int64) + 0
    return str(array.shape).encode() + np.ascontiguousarray(array).tobytes()
