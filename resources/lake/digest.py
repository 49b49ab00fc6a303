"""Digests and fingerprints: what a result was computed from, and what came out.

A fingerprint is not a hash of its parts but the parts themselves, end to end: 8 bytes each for code,
config and weights, then the 16-byte digest of every upstream. Comparing two fingerprints therefore says
*which* part changed, and planning compares bytes instead of hashing millions of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from resources.lake.arrow import compute as pc
from resources.lake.schema import DIGEST_BYTES, Column

PART_BYTES = 8
RECIPE_BYTES = 3 * PART_BYTES
HASH_CHUNK = 1 << 15


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


IMPORTED_RECIPE = digest_bytes(b"imported, not computed", size=RECIPE_BYTES)
"""Stands where code, config and weights stand in the fingerprint of a result that was read from files."""


def imported_fingerprint(photograph: bytes) -> bytes:
    """Fingerprint of an imported result: it holds for a photograph (its digest), whatever made it."""
    return IMPORTED_RECIPE + photograph


def imported_rows(stored: pa.Array, photographs: pa.Array) -> np.ndarray:
    """Which stored fingerprints are those of results imported for today's photographs (bool, N)."""
    wanted = combine_fingerprints(IMPORTED_RECIPE, [photographs])
    return np.asarray(pc.fill_null(pc.equal(stored.cast(pa.binary()), wanted), False)).astype(bool)


OTHER_PARTS = np.uint32(1 << 31)
"""Bit of `changed_parts`: the stored fingerprint has another number of parts than today's."""


def changed_parts(stored: pa.Array, prefix: bytes, upstream_digests: Sequence[pa.Array]) -> np.ndarray:
    """Which parts of stored fingerprints differ from today's, as bits, one uint32 per row.

    Bits 0-2 are code, config and weights, bit 3 + i is upstream i; 0 means equal. A null digest (the upstream
    has none any more) differs from everything. Rows without a stored fingerprint get 0.
    """
    flags = np.zeros(len(stored), np.uint32)
    width = RECIPE_BYTES + DIGEST_BYTES * len(upstream_digests)
    lengths = pc.binary_length(stored)
    lengths = np.asarray(pc.fill_null(lengths, -1) if stored.null_count else lengths)
    regular = lengths == width
    for chosen, compare in ((regular, _changed_words), (~regular & (lengths >= 0), _changed_slices)):
        if chosen.all():
            return compare(stored, prefix, upstream_digests)
        if chosen.any():
            mask = pa.array(chosen)
            digests = [digest.filter(mask) for digest in upstream_digests]
            flags[chosen] = compare(stored.filter(mask), prefix, digests)
    return flags


def _changed_words(stored: pa.Array, prefix: bytes, digests: Sequence[pa.Array]) -> np.ndarray:
    """Fingerprints of equal length, compared as 8-byte words in place."""
    first = int(np.frombuffer(stored.buffers()[1], np.int32)[stored.offset])
    words = _words(stored.buffers()[2], first, len(stored), RECIPE_BYTES + DIGEST_BYTES * len(digests))
    flags = np.zeros(len(stored), np.uint32)
    for bit, word in enumerate(np.frombuffer(prefix, np.uint64)):
        differs = words[:, bit] != word
        if differs.any():
            flags |= differs.astype(np.uint32) << np.uint32(bit)
    for index, digest in enumerate(digests):
        today = _words(digest.buffers()[1], digest.offset * DIGEST_BYTES, len(digest), DIGEST_BYTES)
        differs = words[:, 3 + 2 * index] != today[:, 0]
        differs |= words[:, 4 + 2 * index] != today[:, 1]
        if digest.null_count:
            differs |= np.asarray(digest.is_null())
        if differs.any():
            flags |= differs.astype(np.uint32) << np.uint32(3 + index)
    return flags


def _changed_slices(stored: pa.Array, prefix: bytes, digests: Sequence[pa.Array]) -> np.ndarray:
    """Fingerprints of other lengths than today's: the parts that are there are compared one by one."""
    parts: list[Any] = [prefix[start : start + PART_BYTES] for start in range(0, RECIPE_BYTES, PART_BYTES)]
    edges = [PART_BYTES * step for step in range(3)]
    edges += [RECIPE_BYTES + DIGEST_BYTES * step for step in range(len(digests) + 1)]
    flags = np.full(len(stored), OTHER_PARTS)
    for bit, (today, start, stop) in enumerate(zip([*parts, *digests], edges, edges[1:], strict=False)):
        wanted = pa.scalar(today, pa.binary()) if isinstance(today, bytes) else today.cast(pa.binary())
        differs = pc.fill_null(pc.not_equal(pc.binary_slice(stored, start, stop), wanted), True)
        flags |= np.asarray(differs).astype(np.uint32) << np.uint32(bit)
    return flags


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
        for part in (key.encode(), digest):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.hexdigest()


def key_ordered_shard_digest(keys: pa.Array, digests: pa.Array) -> str:
    """`shard_digest` of rows that are already in key order, without a Python object per row.

    A row without a digest counts with an empty one.
    """
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for messages in _row_messages(keys, digests):
        ends = np.frombuffer(messages.buffers()[1], np.int32)[[0, len(messages)]]
        hasher.update(memoryview(messages.buffers()[2])[ends[0] : ends[1]])
    return hasher.hexdigest()


def key_ordered_digest(keys: pa.Array, digests: pa.Array) -> bytes:
    """Digest over the digests of (row key, row digest): what an artifact is made from, rows in key order.

    A row without a digest counts with an empty one.
    """
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for messages in _row_messages(keys, digests):
        rows = (hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in messages.to_pylist())
        hasher.update(b"".join(rows))
    return hasher.digest()


def _row_messages(keys: pa.Array, digests: pa.Array) -> Iterator[pa.Array]:
    """Key and digest of each row, each behind its length as `digest_bytes` writes it; some rows at a time."""
    # before slicing: to cast a slice costs as much as to cast all it was cut from
    keys, digests = (item if item.type == pa.binary() else item.cast(pa.binary()) for item in (keys, digests))
    for start in range(0, len(keys), HASH_CHUNK):
        key = keys.slice(start, HASH_CHUNK)
        digest = pc.fill_null(digests.slice(start, HASH_CHUNK), b"")
        parts = [_length_bytes(key), key, _length_bytes(digest), digest, pa.scalar(b"", pa.binary())]
        yield pc.binary_join_element_wise(*parts)


def _length_bytes(values: pa.Array) -> pa.Array:
    """Length of each value as 8 bytes, least significant first, as `digest_bytes` writes it."""
    lengths = np.asarray(pc.binary_length(values)).astype("<i8")
    return pa.Array.from_buffers(pa.binary(8), len(values), [None, pa.py_buffer(lengths)]).cast(pa.binary())


def _words(data: Any, start: int, count: int, width: int) -> np.ndarray:
    """Values of equal width in a buffer as (count, width / 8) words."""
    return np.frombuffer(data, np.uint8, count * width, start).reshape(count, width).view(np.uint64)


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
