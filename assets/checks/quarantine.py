"""`quarantined_share`: how many rows a stage set aside, by reason, against the profile's limits."""

from __future__ import annotations

from collections import Counter

from assets.checks.findings import Finding, first_keys, judged, named
from assets.checks.rows import StageShard
from resources.lake.schema import Status
from resources.photos.reasons import Reason


def quarantined_share(shard: StageShard) -> Finding:
    """The share of rows that this stage itself quarantined, of those that reached it.

    Rows that a stage above set aside (`upstream`) count neither as lost here nor as having come: each loss
    is told once, where it happened. Rows that were never computed have not come yet.
    """
    parts = [f"{shard.state}.status", f"{shard.state}.reason"]
    reasons: Counter[str] = Counter()
    keys: list[str] = []
    rows = 0
    for batch in shard.batches([shard.key, *parts]):
        for key, status, reason in zip(*(batch[name].to_pylist() for name in batch), strict=True):
            rows += status is not None
            if status == Status.QUARANTINED.value:
                reasons[str(reason)] += 1
                if reason != Reason.UPSTREAM.value:
                    keys.append(key)
    reached = rows - reasons[Reason.UPSTREAM.value]
    share = len(keys) / reached if reached else 0.0
    limit = shard.limits.quarantined_in(shard.name)
    passed, severity = judged(share, limit)
    figures = {
        "share": round(share, 4),
        "quarantined_here": len(keys),
        "rows_reached": reached,
        "reasons": dict(sorted((+reasons).items())),
        "warn_above": limit.warn,
        "error_above": limit.error,
        "rows": first_keys(keys),
    }
    told = f"{shard.name} quarantined {len(keys)} of the {reached} rows that reached it ({share:.1%})"
    if passed:
        return Finding(True, told, figures)
    causes = ", ".join(
        f"{reason} {count}" for reason, count in reasons.most_common() if reason != Reason.UPSTREAM.value
    )
    over = limit.error if share > limit.error else limit.warn
    return Finding(
        passed=False,
        message=f"{told}, more than {over:.1%}: {causes}. Rows: {named(keys)}. Look at these photographs: "
        "either the folder holds what it should not, or a setting of the profile is too strict; "
        f"`orchard run {shard.name} --retry quarantined` tries them again.",
        metadata=figures,
        severity=severity,
    )
