"""Bring photographs into the lake: new ones appended, changed ones replaced, broken ones quarantined.

Idempotent: ingesting the same tree twice changes nothing. A file is read again only when its size or
modification time differs from what was recorded; whether it *changed* is decided by its SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from resources.lake.arrow import compute as pc
from resources.lake.consent import Consent
from resources.lake.digest import digest_bytes, quarantine_digest
from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.lake.known import KnownRow, KnownRows
from resources.lake.lake import Lake
from resources.lake.locks import one_ingest_at_a_time, works_on_lake
from resources.lake.pairs import shard_name
from resources.lake.removals import name_hash, read_removals, take_back
from resources.lake.schema import FACES_SCHEMA, FACES_STAGE, SOURCE_ROOTS_SCHEMA, Status, state_column
from resources.photos.decoding import DecodeLimits, read_photo
from resources.photos.isolation import inspect_isolated
from resources.photos.layouts import FileStatus, FoundPhoto, Layout, detect_layout, scan
from resources.photos.names import escape
from resources.photos.reasons import Reason, RowError

DEFAULT_SHARD_SIZE = 4096
BYTES_PER_APPEND = 256 * 1024 * 1024
"""Photographs are appended in pieces of at most this many bytes, so that memory stays bounded."""

REFRESH_WAIT_SECONDS = 600.0
"""How long `refresh_shard` waits for another ingest before it gives up."""

VERDICTS_OF_A_MACHINE = frozenset((Reason.TOO_SLOW, Reason.DECODER_DIED))
"""Reasons that another machine, or this one on another day, may not find in the same bytes."""

SHARD_PREFIX = "shard"
INGEST_CODE_VERSION = "1"
FORGOTTEN = "policy: this photograph was forgotten; ingest with --un-forget to take it back"


@dataclass
class IngestReport:
    """What one ingest found and did. Every candidate file is in exactly one of the counts."""

    layout: str = ""
    layout_reason: str = ""
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    conflicts: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    pruned: int = 0
    shards: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "layout": self.layout,
            "added": self.added,
            "replaced": self.replaced,
            "unchanged": self.unchanged,
            "quarantined": dict(sorted(self.quarantined.items())),
            "conflicts": self.conflicts,
            "skipped": self.skipped,
            "removed": self.removed,
            "pruned": self.pruned,
            "shards": self.shards,
        }


@works_on_lake
def ingest(
    lake: Lake,
    root: Path,
    *,
    layout: Layout | Literal["auto"] = "auto",
    shard_size: int = DEFAULT_SHARD_SIZE,
    consent: Consent | None = None,
    prune: bool = False,
    limits: DecodeLimits | None = None,
    un_forget: bool = False,
    on_photo: Callable[[FoundPhoto], None] | None = None,
    wait_seconds: float = 0.0,
) -> IngestReport:
    """Make the lake hold the photographs under `root`.

    `consent` is recorded with new rows (None means `unknown`) and, when given, updates known ones.
    Files that were ingested from `root` before and are gone now are reported, and deleted from the lake
    only with `prune`. Photographs on the removal list (`orchard forget`) are skipped, or taken off it with
    `un_forget`. Another ingest on this lake is waited for, `wait_seconds` at most.

    Raises LakeError when `root` is not a folder or another ingest is still running on this lake.
    """
    root = root.expanduser().resolve()
    if not root.is_dir():
        raise LakeError(f"{root} is not a folder; give the folder that holds the photographs")
    if shard_size < 1:
        raise LakeError(f"shard size {shard_size} must be at least 1")
    limits = limits or DecodeLimits()
    chosen, reason = detect_layout(root) if layout == "auto" else (layout, "named by the caller")
    report = IngestReport(layout=chosen, layout_reason=reason)
    with one_ingest_at_a_time(lake, wait_seconds):
        known, removals = KnownRows(lake), read_removals(lake)
        welcome: set[str] = set()
        writer = _ShardWriter(lake, shard_size, report)
        replaced: dict[str, list[dict[str, Any]]] = {}
        for photo in scan(
            root, chosen, lambda item: report.skipped.append(f"{escape(str(item.path))}: {item.why}")
        ):
            if on_photo is not None:
                on_photo(photo)
            place = known.see(photo.image_id)
            source = escape(photo.location)
            if place is not None and _is_untouched(photo, known, place, source, consent):
                report.unchanged += 1
                continue
            old = None if place is None else known.row(place)
            if old is not None and old.source != source and source_path(old.source).exists():
                report.conflicts.append(f"{source}: the id {photo.image_id} belongs to {old.source}")
                continue
            row = _inspect(photo, limits, consent or (Consent(old.consent) if old else Consent.UNKNOWN))
            if removals.has_photo(photo.identity, photo.image_id, row["image_sha256"]):
                if not un_forget:
                    report.skipped.append(f"{escape(str(photo.relative))}: {FORGOTTEN}")
                    continue
                welcome |= {name_hash(photo.identity), name_hash(photo.image_id)}
                welcome |= {row["image_sha256"]} - {None}
            if old is None:
                writer.add(row)
            elif _same_row(row, old):
                report.unchanged += 1
                continue
            else:
                replaced.setdefault(old.shard, []).append({**row, "shard": old.shard})
                report.replaced += 1
            if row[state_column(FACES_STAGE)]["status"] == Status.QUARANTINED:
                report.quarantined[row[state_column(FACES_STAGE)]["reason"]] += 1
        take_back(lake, welcome)
        writer.flush()
        for shard, rows in sorted(replaced.items()):
            lake.faces.replace(pa.Table.from_pylist(rows, schema=FACES_SCHEMA))
            crash_point("mid_ingest")
            report.shards.append(shard)
        prefix = escape(root.as_posix().rstrip("/")) + "/"
        report.removed = sorted(
            image_id for image_id, source in known.missing(prefix) if not source_path(source).exists()
        )
        if prune and report.removed:
            lake.faces.delete(report.removed)
            crash_point("mid_ingest")
            report.pruned = len(report.removed)
        _remember_root(lake, SourceRoot(escape(root.as_posix()), chosen, shard_size))
    report.shards = sorted(set(report.shards))
    return report


@dataclass(frozen=True)
class SourceRoot:
    """A folder that was ingested, and how."""

    path: str
    layout: Layout
    shard_size: int


def source_roots(lake: Lake) -> list[SourceRoot]:
    """Every folder that was ever ingested, with its layout and shard size."""
    rows = lake.source_roots.snapshot().dataset.to_table().to_pylist()
    return [SourceRoot(**row) for row in sorted(rows, key=lambda row: row["path"])]


def _remember_root(lake: Lake, root: SourceRoot) -> None:
    known = {item.path: item for item in source_roots(lake)}
    if known.get(root.path) == root:
        return
    rows = pa.Table.from_pylist([asdict(root)], schema=SOURCE_ROOTS_SCHEMA)
    if root.path in known:
        lake.source_roots.replace(rows)  # one commit: a kill in between must not forget the folder
    else:
        lake.source_roots.append(rows)


@works_on_lake
def refresh_shard(
    lake: Lake, shard: str, limits: DecodeLimits | None = None, *, again: Collection[str] = ()
) -> IngestReport:
    """Look at the source files of one shard's rows again and replace those whose bytes changed.

    Another ingest is waited for: two shards may be looked at by two runs at once.
    Source files that are gone are reported and their rows kept. The rows named in `again` are written anew
    whatever is stored of them; they are quarantined when their file is gone.
    """
    report = IngestReport(layout="refresh", layout_reason=f"the source files of {shard}")
    names = ["image_id", "identity", "source"]
    with one_ingest_at_a_time(lake, REFRESH_WAIT_SECONDS):
        rows = lake.faces.snapshot().scan(names, shard=shard).select(names).to_pylist()
        known, removals = KnownRows(lake, shard), read_removals(lake)
        replaced = []
        for row in rows:
            path = source_path(row["source"])
            forced = row["image_id"] in again
            if not forced and not path.exists():
                report.removed.append(row["image_id"])
                continue
            place = known.see(row["image_id"])
            if place is None:  # another process pruned it since the rows were listed
                continue
            location = path.as_posix()
            status = FileStatus.look(location)
            photo = FoundPhoto(location, path.name, row["identity"], path.stem, row["image_id"], status)
            if not forced and _is_untouched(photo, known, place, row["source"], None):
                report.unchanged += 1
                continue
            old = known.row(place)
            fresh = _inspect(photo, limits or DecodeLimits(), Consent(old.consent))
            if removals.has_file(fresh["image_sha256"]):
                report.skipped.append(f"{row['source']}: {FORGOTTEN}")
                continue
            if not forced and _same_row(fresh, old):
                report.unchanged += 1
                continue
            replaced.append({**fresh, "shard": shard})
            report.replaced += 1
        lake.faces.replace(pa.Table.from_pylist(replaced, schema=FACES_SCHEMA))
        crash_point("mid_ingest")
    return report


def source_path(source: str) -> Path:
    """The path that a stored `source` names: the inverse of `layouts.escape`."""
    return Path(os.fsdecode(unquote_to_bytes(source)))


class _ShardWriter:
    """Appends new rows, filling the last shard before opening another; shards never change place."""

    def __init__(self, lake: Lake, shard_size: int, report: IngestReport) -> None:
        self.lake, self.shard_size, self.report = lake, shard_size, report
        shards = lake.faces.snapshot().dataset.to_table(columns=["shard"])["shard"]
        counts = {item["values"]: item["counts"] for item in pc.value_counts(shards).to_pylist()}
        self.index = max((int(name.rsplit("-", 1)[1]) for name in counts), default=0)
        self.used = counts.get(shard_name(SHARD_PREFIX, self.index), 0)
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        if self.used >= self.shard_size:
            self.flush()
            self.index, self.used = self.index + 1, 0
        self.rows.append({**row, "shard": shard_name(SHARD_PREFIX, self.index)})
        self.used += 1
        self.bytes += len(row["image"] or b"")
        self.report.added += 1
        if self.bytes >= BYTES_PER_APPEND:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.report.shards.append(self.rows[0]["shard"])
            self.lake.faces.append(pa.Table.from_pylist(self.rows, schema=FACES_SCHEMA))
            crash_point("mid_ingest")
        self.rows, self.bytes = [], 0


def _inspect(photo: FoundPhoto, limits: DecodeLimits, consent: Consent) -> dict[str, Any]:
    """The row of one file: facts and bytes when it is sound, a reason when it is not."""
    row: dict[str, Any] = {
        "image_id": photo.image_id,
        "identity": photo.identity,
        "source": escape(photo.location),
        "consent": consent.value,
        "image_sha256": None,
    }
    try:
        if photo.problem is not None:
            raise RowError(photo.problem, f"{photo.relative}: {photo.problem.meaning}")
        stat = photo.path.stat()
        row |= {"source_size": stat.st_size, "source_mtime_ns": stat.st_mtime_ns}
        data = read_photo(photo.path, limits)
        row["image_sha256"] = hashlib.sha256(data).hexdigest()
        facts = inspect_isolated(data, limits)
    except RowError as error:
        if error.reason in VERDICTS_OF_A_MACHINE:
            row["image_sha256"] = None  # so that a file that is touched is tried again
        return row | _quarantined(error.reason, error.detail)
    except OSError as error:
        return row | _quarantined(Reason.UNREADABLE, error.strerror or type(error).__name__)
    row |= {
        "image": data,
        "width": facts.width,
        "height": facts.height,
        "orientation": facts.orientation,
    }
    digest = digest_bytes(row["image_sha256"].encode())
    row[state_column(FACES_STAGE)] = _state(digest, Status.OK, None, None)
    return row


def _quarantined(reason: Reason, detail: str) -> dict[str, Any]:
    state = _state(quarantine_digest(reason.value), Status.QUARANTINED, reason.value, detail)
    return {state_column(FACES_STAGE): state, "image": None}


def _state(digest: bytes, status: Status, reason: str | None, detail: str | None) -> dict[str, Any]:
    return {
        "fingerprint": digest,
        "digest": digest,
        "status": status.value,
        "reason": reason,
        "detail": detail,
        "attempt": 1,
        "code_version": INGEST_CODE_VERSION,
    }


def _is_untouched(
    photo: FoundPhoto, known: KnownRows, place: int, source: str, consent: Consent | None
) -> bool:
    if photo.status is None or not known.is_file(place, source, *photo.status):
        return False
    return consent is None or consent.value == known.consent(place)


def _same_row(row: dict[str, Any], old: KnownRow) -> bool:
    same_bytes = row["image_sha256"] is not None and row["image_sha256"] == old.sha256
    return same_bytes and row["source"] == old.source and row["consent"] == old.consent
