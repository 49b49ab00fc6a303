"""Errors of the lake, each saying what, where and what to do."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space (`orchard gc` drops old versions and leftovers)",
    errno.EDQUOT: "the disk quota is used up; free some space (`orchard gc` drops old versions)",
    errno.EFBIG: "a file may not grow that large here; raise the limit (`ulimit -f`) or use another disk",
    errno.EROFS: "the file system is mounted read-only; mount it writable or name another lake (--lake)",
    errno.EACCES: "this user may not write there; change the owner or mode, or name another lake (--lake)",
    errno.EPERM: "this user may not write there; change the owner or mode, or name another lake (--lake)",
}
"""What to do about a refused write, by error number."""

STORE_ERRORS = ("Generic S3 error", "AWS Error")
"""How Lance and Arrow begin what an object store answered."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class LakeError(RuntimeError):
    """Something about the lake itself is wrong: a missing table, a foreign schema, a refused commit."""


class CommitRefused(LakeError):
    """A column group was not committed because it does not fit its fragment; nothing was changed."""


class CommitConflict(LakeError):
    """Another writer changed the same rows first; read again and retry."""


class StorageRefused(LakeError):
    """The disk would not take a write: it is full, read-only or not ours. What was committed stays."""


class LakeDamaged(LakeError):
    """A file of the lake is missing or does not hold what it should."""


DAMAGE = (
    "failed to fill whole buffer",
    "does not appear to be a Lance file",
    "Not found:",
    "outside metadata region",
    "file size is too small",
    "Invalid range",
    "LanceError(Corrupt",
    "failed to decode",
)
"""What Lance says about files that are gone, cut short or overwritten."""


def is_damage(error: BaseException) -> bool:
    """Whether an error of Lance says that a file is not what it should be."""
    return any(marker in str(error) for marker in DAMAGE)


@contextlib.contextmanager
def clear_read_errors(uri: str) -> Iterator[None]:
    """Turn what Lance says about a damaged file under `uri` into one LakeDamaged that names the remedy."""
    try:
        yield
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        if not is_damage(error):
            raise
        raise LakeDamaged(
            f"a file of {uri} is damaged: {error}. `orchard repair` finds all damaged parts and has them "
            "made again"
        ) from error


@contextlib.contextmanager
def clear_storage_errors(uri: str) -> Iterator[None]:
    """Turn a refused write under `uri` into one StorageRefused that names the remedy.

    Lance reports what the operating system said as text only, so the number is read from its message.
    """
    try:
        yield
    except OSError as error:
        told = _OS_ERROR.search(str(error))
        number = error.errno or (int(told[1]) if told else 0)
        if any(marker in str(error) for marker in STORE_ERRORS):
            raise StorageRefused(
                f"the object store of {uri} did not do as it was asked: {str(error).splitlines()[0][:300]}. "
                "Is the bucket there, and are AWS_ENDPOINT_URL, AWS_REGION and the credentials right? "
                "Nothing that was finished is lost; run the same command again then"
            ) from error
        if number not in REMEDIES:
            raise
        raise StorageRefused(
            f"{uri} could not be written: {REMEDIES[number]}. Nothing that was finished is lost; "
            "run the same command again then"
        ) from error
