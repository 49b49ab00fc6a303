"""Which code this is: a digest of Orchard's source files, by which machines see that theirs is the same."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("assets", "models", "pipeline", "resources")
ROOT = Path(__file__).resolve().parents[2]


@cache
def source_digest() -> str:
    """Digest over names and contents of all Python files of the packages, as they were when first asked."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
