"""What the lake remembers of forgotten photographs: hashes that keep them out, and models that saw them.

Neither a name nor a byte is kept. A hash of a name can be guessed by whoever knows the name, which is what
it is for: the same folder ingested again must not bring the photograph back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import pyarrow as pa

from resources.lake.lake import Lake

REMOVALS_SCHEMA = pa.schema(
    [pa.field("sha256", pa.string(), nullable=False), pa.field("kind", pa.string(), nullable=False)]
)

TAINTED_SCHEMA = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("location", pa.string()),
        pa.field("photographs", pa.int32(), nullable=False),
    ]
)


class RemovalKind(StrEnum):
    """What a hash on the removal list is a hash of."""

    FILE = "file"
    IMAGE_ID = "image_id"
    IDENTITY = "identity"


@dataclass(frozen=True)
class Removals:
    """The removal list: SHA-256 in hexadecimal, by kind."""

    hashes: Mapping[RemovalKind, frozenset[str]] = field(default_factory=dict)

    def has_file(self, sha256: str | None) -> bool:
        """Whether a file with this SHA-256 was forgotten."""
        return sha256 in self.hashes.get(RemovalKind.FILE, ())

    def has_image(self, image_id: str) -> bool:
        """Whether the photograph with this id was forgotten."""
        return name_hash(image_id) in self.hashes.get(RemovalKind.IMAGE_ID, ())

    def has_identity(self, identity: str) -> bool:
        """Whether this person was forgotten."""
        return name_hash(identity) in self.hashes.get(RemovalKind.IDENTITY, ())

    def has_photo(self, identity: str, image_id: str, sha256: str | None) -> bool:
        """Whether a photograph must stay out, for its person, its id or its bytes."""
        return self.has_identity(identity) or self.has_image(image_id) or self.has_file(sha256)


@dataclass(frozen=True)
class Tainted:
    """An artifact that was made with forgotten photographs."""

    digest: str
    stage: str
    location: str | None
    photographs: int


def name_hash(name: str) -> str:
    """SHA-256 of a name, hexadecimal."""
    return hashlib.sha256(name.encode()).hexdigest()


def read_removals(lake: Lake) -> Removals:
    """The removal list; empty for a lake in which nothing was ever forgotten."""
    table = lake.table("removals")
    found: dict[RemovalKind, set[str]] = {}
    if table.exists():
        for row in table.snapshot().dataset.to_table().to_pylist():
            found.setdefault(RemovalKind(row["kind"]), set()).add(row["sha256"])
    return Removals({kind: frozenset(hashes) for kind, hashes in found.items()})


def remember(lake: Lake, kind: RemovalKind, hashes: Iterable[str]) -> None:
    """Put hashes on the removal list; known ones are left as they are."""
    table = lake.table("removals")
    table.create(REMOVALS_SCHEMA)
    fresh = sorted(set(hashes) - read_removals(lake).hashes.get(kind, frozenset()))
    rows = [{"sha256": value, "kind": kind.value} for value in fresh]
    table.append(pa.Table.from_pylist(rows, schema=REMOVALS_SCHEMA))


def take_back(lake: Lake, hashes: Iterable[str]) -> None:
    """Take hashes off the removal list: whoever ingests them says that they may be there again."""
    table = lake.table("removals")
    if table.exists():
        table.delete(sorted(set(hashes)))


def read_tainted(lake: Lake) -> list[Tainted]:
    """Artifacts that were made with photographs forgotten since, in the order of stage and digest."""
    table = lake.table("tainted")
    rows = table.snapshot().dataset.to_table().to_pylist() if table.exists() else []
    return sorted((Tainted(**row) for row in rows), key=lambda item: (item.stage, item.digest))


def mark_tainted(lake: Lake, tainted: Iterable[Tainted]) -> None:
    """Add artifacts to the list of tainted ones; of one already on it, the larger number is kept."""
    table = lake.table("tainted")
    table.create(TAINTED_SCHEMA)
    known = {item.digest: item for item in read_tainted(lake)}
    fresh = {
        item.digest: item
        for item in tainted
        if item.digest not in known or known[item.digest].photographs < item.photographs
    }
    table.put(pa.Table.from_pylist([asdict(item) for item in fresh.values()], schema=TAINTED_SCHEMA))
