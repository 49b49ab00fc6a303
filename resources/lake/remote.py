"""Files of a lake on an object store: made in a folder of this machine, put into the store when finished.

Tables need none of this: Lance reads and writes them where they are. But lists, checkpoints and training
states are made by libraries that write to folders. A folder is put file by file and its listing last, so that
one without a listing was broken off and is taken for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from resources.lake.errors import LakeError
from resources.lake.failpoints import crash_point
from resources.lake.storage import Storage

CACHE_VARIABLE = "ORCHARD_CACHE"
DEFAULT_CACHE = "~/.cache/orchard"
LISTING = "files.json"
"""Name, bytes and SHA-256 of every file of a folder; written when all of them are there."""


def working_root(uri: str) -> Path:
    """This machine's folder for files of the lake at `uri`."""
    cache = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()
    return cache / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:16]


def upload(storage: Storage, path: Path, location: str) -> None:
    """Put a file or a folder at a location; what was there is replaced.

    A file is replaced in one step. A folder is without its listing, and so not there, until it is whole.
    """
    if path.is_file():
        storage.put(path, location)
        return
    listing = f"{location}/{LISTING}"
    storage.remove(listing)
    files: dict[str, dict[str, object]] = {}
    for item in sorted(path.rglob("*")):
        if item.is_file():
            name = item.relative_to(path).as_posix()
            storage.put(item, f"{location}/{name}")
            files[name] = {"bytes": item.stat().st_size, "sha256": _sha256(item)}
            crash_point("mid_checkpoint")
    storage.write(listing, json.dumps(files, indent=2, sort_keys=True).encode())


def download(storage: Storage, location: str, path: Path) -> Path:
    """Bring a file or a folder to `path` on this machine, whole or not at all.

    A folder that is here already is taken as it is: it came here whole, and is named by its content. A file
    is brought anew. Raises LakeError when there is nothing, when a folder was put there in part only, and
    when its files are not those of its listing.
    """
    if path.is_dir():
        return path
    where = f"{storage.root}/{location}"
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        if is_whole(storage, location):
            _get_folder(storage, location, temporary)
        elif storage.children(location):
            raise LakeError(f"{where} was put there in part only; run its stage again with --force")
        else:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            storage.get(location, temporary)
        try:
            temporary.replace(path)
        except OSError:
            if not path.is_dir():  # another process brought the same folder first: then all is well
                raise
    except FileNotFoundError as error:
        raise LakeError(f"{where} is not there; run its stage again with --force") from error
    finally:
        _discard(temporary)
    return path


def is_whole(storage: Storage, location: str) -> bool:
    """Whether a folder of the store has its listing: all its files are there."""
    return storage.exists(f"{location}/{LISTING}")


def _get_folder(storage: Storage, location: str, folder: Path) -> None:
    for name, wanted in json.loads(storage.read(f"{location}/{LISTING}")).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.get(f"{location}/{name}", path)
        if _sha256(path) != wanted["sha256"]:
            raise LakeError(
                f"{storage.root}/{location}/{name} is not the file that was put there (SHA-256 differs); "
                "run its stage again with --force"
            )


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
