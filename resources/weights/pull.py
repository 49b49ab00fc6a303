"""Bring a role's file to this machine: downloaded at a pinned commit, checked, converted, recorded.

Broken-off downloads are taken up again by huggingface_hub. What nobody has stated about a file is recorded at
the first pull, with the date, and must be the same ever after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from resources.weights.convert import convert
from resources.weights.entries import (
    HubFolderWeight,
    HubWeight,
    LocalWeight,
    PulledWeight,
    WeightEntry,
    origin,
)
from resources.weights.errors import WeightError
from resources.weights.ledger import Trust, now, read_ledger, record_trust, weights_folder
from resources.weights.licences import check_licence
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import ResolvedWeight, find_entry, folder_sha256, resolve, sha256


def pull(
    role: str,
    manifest: Mapping[str, WeightEntry] = MANIFEST,
    *,
    again: bool = False,
    report: Callable[[str], None] = print,
) -> ResolvedWeight:
    """Download (or, for a file that the user has put in place, take over) what plays `role`.

    Args:
        role: which weights.
        manifest: what is known of them.
        again: download anew even if the hub's cache has it; what was recorded is recorded anew.
        report: receives sentences for people.

    Raises:
        WeightError: the licence gate, a login, the network, another size or digest than stated or recorded.
    """
    entry = find_entry(role, manifest)
    check_licence(entry)
    trust = None if again else read_ledger().trusted.get(role)
    match entry:
        case HubWeight():
            path, revision = _download_file(entry, trust, again)
            _take_over(entry, path, revision, trust, report)
        case HubFolderWeight():
            folder, revision = _download_folder(entry, trust, again)
            digest = folder_sha256(folder, entry)
            if trust is not None and trust.sha256 != digest:
                raise _another(entry, digest, trust.sha256, "was recorded")
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            record_trust(role, Trust(sha256=digest, size=size, revision=revision, on=now()))
        case LocalWeight():
            _take_over(entry, weights_folder() / entry.path, "", trust, report)
        case _:
            report(f"{role}: {origin(entry)} comes with the installation")
    return resolve(role, manifest)


def _take_over(
    entry: HubWeight | LocalWeight,
    path: Path,
    revision: str,
    trust: Trust | None,
    report: Callable[[str], None],
) -> None:
    """Check a file that is here, convert it if need be, and record what it is."""
    if not path.is_file():
        how = entry.how_to_get if isinstance(entry, LocalWeight) else ""
        where = f"put it at {path} and run `orchard weights pull {entry.role}` again"
        raise WeightError(entry.role, f"there is no file at {path}", f"{how}; then {where}" if how else where)
    size, digest = path.stat().st_size, sha256(path)
    if entry.size is not None and size != entry.size:
        raise WeightError(
            entry.role,
            f"{origin(entry)} has {size} bytes, stated are {entry.size}: it is cut short or another file",
            f"orchard weights pull {entry.role} --again",
        )
    if entry.sha256 is not None and digest != entry.sha256:
        raise _another(entry, digest, entry.sha256, "is stated")
    if trust is not None and trust.sha256 != digest:
        raise _another(entry, digest, trust.sha256, f"was recorded on {trust.on}")
    if entry.sha256 is None and trust is None:
        report(
            f"{entry.role}: nobody has stated its digest; sha256 {digest} is recorded and pinned from now on"
        )
    record = Trust(sha256=digest, size=size, revision=revision, on=trust.on if trust else now())
    if entry.conversion is None:
        record_trust(entry.role, record)
        return
    made = convert(entry.role, path, entry.conversion, weights_folder() / entry.role, report=report)
    record_trust(
        entry.role, record.model_copy(update={"converted": made.name, "converted_sha256": sha256(made)})
    )


def _another(entry: WeightEntry, found: str, expected: str, told: str) -> WeightError:
    return WeightError(
        entry.role,
        f"{origin(entry)} has sha256 {found}, but {expected} {told}; it was not taken",
        f"find out why; if the new file is right: orchard weights pull {entry.role} --again",
    )


def _download_file(entry: HubWeight, trust: Trust | None, again: bool) -> tuple[Path, str]:
    from huggingface_hub import hf_hub_download

    def work() -> str:
        return hf_hub_download(
            entry.repository,
            entry.file,
            revision=_revision(entry, trust),
            repo_type=entry.repository_type,
            force_download=again,
        )

    path = Path(_told(entry, work))
    return path, _commit(path)


def _download_folder(entry: HubFolderWeight, trust: Trust | None, again: bool) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    def work() -> str:
        return snapshot_download(
            entry.repository,
            revision=_revision(entry, trust),
            allow_patterns=list(entry.files),
            force_download=again,
        )

    path = Path(_told(entry, work))
    return path, path.name


def _revision(entry: PulledWeight, trust: Trust | None) -> str:
    return entry.revision or (trust.revision if trust else "") or "main"


def _commit(path: Path) -> str:
    """The commit under which a file lies in the hub's cache: `.../snapshots/<commit>/...`."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1]


def _told(entry: PulledWeight, work: Callable[[], str]) -> str:
    """Run a download; what the hub or the network refuses becomes one sentence."""
    import httpx
    from huggingface_hub import errors

    try:
        return work()
    except errors.GatedRepoError as error:
        raise WeightError(
            entry.role,
            f"{entry.repository} is gated ({entry.gate or 'its owners ask for a login'})",
            f"accept its terms on the hub, set HF_TOKEN, and run `orchard weights pull {entry.role}` again",
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise WeightError(
            entry.role,
            f"{origin(entry)} does not exist at revision {entry.revision or 'main'}",
            "correct the entry in resources/weights; the owners may have moved the file",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightError(
            entry.role,
            f"the hub does not show {entry.repository} to you",
            "check HF_TOKEN; the repository may be private or gone",
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightError(
            entry.role,
            f"the download of {origin(entry)} broke off ({reason})",
            f"run `orchard weights pull {entry.role}` again; it goes on where it stopped",
        ) from error
