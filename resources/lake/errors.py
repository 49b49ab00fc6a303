"""Errors of the lake, each saying what, where and what to do."""

from __future__ import annotations


class LakeError(RuntimeError):
    """Something about the lake itself is wrong: a missing table, a foreign schema, a refused commit."""


class CommitRefused(LakeError):
    """A column group was not committed because it does not fit its fragment; nothing was changed."""


class CommitConflict(LakeError):
    """Another writer changed the same rows first; read again and retry."""
