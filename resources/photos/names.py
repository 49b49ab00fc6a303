"""Names of files as parts of ids: fit to be stored and printed, and never two of them equal.

Ids are valid UTF-8 and stand in XML unharmed: bytes that are no UTF-8 (surrogate escapes in Python) and
characters that XML 1.0 forbids are written as `%XX` per byte. In such a name, and in one that already reads
like an escape, `%` itself becomes `%25`, so that escaping is reversible and never makes two names equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ESCAPE_LOOKALIKE = re.compile(r"%[0-9A-F]{2}")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(name: str) -> str:
    """Make a file name valid UTF-8 and XML by reversible percent escapes; ordinary names stay as they are."""
    if name.isascii() and name.isprintable() and "%" not in name:  # nearly all; five times quicker
        return name
    if not _FORBIDDEN.search(name) and not _ESCAPE_LOOKALIKE.search(name):
        return name
    return _FORBIDDEN.sub(_percent, name.replace("%", "%25"))


def _percent(match: re.Match[str]) -> str:
    is_raw_byte = "\udc80" <= match[0] <= "\udcff"  # how Python spells a file name byte that is no UTF-8
    encoded = match[0].encode("utf-8", "surrogateescape" if is_raw_byte else "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in encoded)


def join_parts(parts: Sequence[str]) -> str:
    """Join folders and stem by `__`, escaped; one part alone is escaped and nothing else.

    Where a part itself holds `__`, or starts or ends with `_`, each of its underscores is written `%5F`
    first, so that different nested paths never join to one name.
    """
    if len(parts) == 1:
        return escape(parts[0])
    return "__".join(
        escape(part).replace("_", "%5F") if "__" in f"_{part}_" else escape(part) for part in parts
    )
