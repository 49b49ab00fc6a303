"""Accounts of the ingest: how many photographs of a shard are ok, and why others are not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from resources.lake.digest import shard_digest
from resources.lake.lake import Lake
from resources.lake.schema import FACES_STAGE, Status, state_column


@dataclass
class Account:
    """Row counts of one stage in one shard or table."""

    rows: int = 0
    ok: int = 0
    quarantined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    digest: str = ""


def ingest_account(lake: Lake, shard: str | None = None) -> Account:
    """Counts and digest of the photographs of one shard, or of the whole lake."""
    state = state_column(FACES_STAGE)
    names = ["image_id", f"{state}.status", f"{state}.reason", f"{state}.digest"]
    columns = lake.faces.snapshot().scan(names, shard=shard)
    account = Account(rows=columns.num_rows)
    keys, statuses, reasons, digests = (columns[name].to_pylist() for name in names)
    account.ok = statuses.count(Status.OK.value)
    account.quarantined = statuses.count(Status.QUARANTINED.value)
    account.reasons = Counter(reason for reason in reasons if reason)
    account.digest = shard_digest(zip(keys, digests, strict=True))
    return account
