"""`rows_accounted`: every row is ok, quarantined with a reason, or pending, and none is pending."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from assets.checks.findings import Finding, first_keys, named
from assets.checks.rows import StageShard
from resources.lake.arrow import compute as pc
from resources.lake.schema import Status
from resources.photos.reasons import Reason

KNOWN_REASONS = pa.array([reason.value for reason in Reason])


def rows_accounted(shard: StageShard, pending: int) -> Finding:
    """Count rows by what their state column says, whatever the planner believes.

    `pending` is the planner's count of rows without a result of today's inputs. A state that is neither ok
    nor quarantined, a quarantined row without a reason that is on the list, and an ok row without digest or
    fingerprint are unaccounted for.
    """
    parts = [f"{shard.state}.{part}" for part in ("status", "reason", "digest", "fingerprint")]
    counts: Counter[str] = Counter()
    lost: list[str] = []
    for batch in shard.batches([shard.key, *parts]):
        status, reason, digest, fingerprint = (batch[part] for part in parts)
        complete = _both(pc.is_valid(digest), pc.is_valid(fingerprint))
        ok = _is(status, Status.OK) & complete & np.asarray(pc.is_null(reason)).astype(bool)
        known = np.asarray(pc.is_in(reason, value_set=KNOWN_REASONS)).astype(bool)
        quarantined = _is(status, Status.QUARANTINED) & complete & known
        never = _both(pc.is_null(status), pc.is_null(digest))
        counts["rows"] += len(status)
        counts["ok"] += int(ok.sum())
        counts["quarantined"] += int(quarantined.sum())
        lost += batch[shard.key].filter(pa.array(~(ok | quarantined | never))).to_pylist()
    figures = {**{name: counts[name] for name in ("rows", "ok", "quarantined")}, "pending": pending}
    if lost:
        return Finding(
            passed=False,
            message=f"{len(lost)} of {counts['rows']} rows are neither ok nor quarantined nor pending: "
            f"{named(lost)}. Their state is damaged; `orchard run {shard.name} --force` computes it anew.",
            metadata={**figures, "unaccounted": len(lost), "unaccounted_rows": first_keys(lost)},
        )
    if pending:
        return Finding(
            passed=False,
            message=f"{pending} of {counts['rows']} rows are pending: `orchard plan {shard.name}` says why, "
            f"`orchard run` computes them.",
            metadata=figures,
        )
    said = f"{counts['ok']} ok and {counts['quarantined']} quarantined are all {counts['rows']} rows"
    return Finding(passed=True, message=said, metadata=figures)


def _is(values: pa.Array, status: Status) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.equal(values, status.value), False)).astype(bool)


def _both(left: pa.Array, right: pa.Array) -> np.ndarray:
    return np.asarray(pc.and_(left, right)).astype(bool)
