"""Files under a path or an s3:// URI by one interface: what lies there, how large, how old; write, remove.

Lance reads and writes its tables itself. This is for everything beside them: lists, checkpoints, leases, and
the files that housekeeping removes. Endpoint, region and credentials come from the same environment
variables that Lance reads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

S3 = "s3://"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables in which Lance looks for a store that is not Amazon's, the first that is set."""

REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
DEFAULT_REGION = "us-east-1"
COPY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class StoredFile:
    """One file: where it lies under its storage, its bytes, when it was written (seconds of the epoch)."""

    location: str
    size: int
    written: float


@dataclass(frozen=True)
class Storage:
    """A folder or a prefix of a bucket. Locations are relative to it, with slashes."""

    filesystem: fs.FileSystem
    root: str

    @classmethod
    def at(cls, uri: str | Path) -> Storage:
        """The files under a path or an s3:// URI."""
        text = str(uri)
        if text.startswith(S3):
            place = text.removeprefix(S3).rstrip("/")
            return cls(_s3(place.partition("/")[0], _setting(ENDPOINTS), _setting(REGIONS)), place)
        return cls(fs.LocalFileSystem(), text)

    def path(self, location: str) -> str:
        """The location as the file system names it."""
        return f"{self.root}/{location}" if location else self.root

    def files(self, location: str = "") -> list[StoredFile]:
        """The file at a location or all files below it, in the order of their names; none is fine."""
        info = self.filesystem.get_file_info(self.path(location))
        if info.type == fs.FileType.File:
            return [self._stored(info)]
        found = self._below(location, recursive=True)
        return sorted((self._stored(item) for item in found if item.is_file), key=lambda item: item.location)

    def children(self, location: str = "") -> list[str]:
        """Locations of the files and folders directly in a folder, sorted."""
        return sorted(self._relative(info) for info in self._below(location, recursive=False))

    def exists(self, location: str) -> bool:
        """Whether there is a file, or a folder, at a location."""
        return self.filesystem.get_file_info(self.path(location)).type != fs.FileType.NotFound

    def last_written(self, location: str) -> float:
        """When the file or the newest thing of a folder was written, seconds of the epoch; 0 for nothing."""
        own = self.filesystem.get_file_info(self.path(location)).mtime_ns or 0
        return max([own / 1e9, *(item.written for item in self.files(location))])

    def remove(self, location: str) -> None:
        """Remove a file, or a folder with all in it; one that is gone already is no matter."""
        path = self.path(location)
        with contextlib.suppress(FileNotFoundError):
            if self.filesystem.get_file_info(path).is_file:
                self.filesystem.delete_file(path)
            else:
                self.filesystem.delete_dir(path)

    def read(self, location: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path(location)) as stream:
            return stream.read()

    def write(self, location: str, data: bytes) -> None:
        """Write a file; readers see the old one or the new one, never a part."""
        path = self.path(location)
        if isinstance(self.filesystem, fs.LocalFileSystem):
            temporary = Path(f"{path}.{uuid.uuid4().hex}.unfinished")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
            return
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def rename(self, location: str, to: str) -> None:
        """Give a file another name."""
        self.filesystem.move(self.path(location), self.path(to))

    def get(self, location: str, path: Path) -> None:
        """Copy a file to this machine. Raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path(location)) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def put(self, path: Path, location: str) -> None:
        """Copy a file of this machine to an object store."""
        with path.open("rb") as source, self.filesystem.open_output_stream(self.path(location)) as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    def _below(self, location: str, *, recursive: bool) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path(location), recursive=recursive, allow_not_found=True)
        return self.filesystem.get_file_info(selector)

    def _stored(self, info: fs.FileInfo) -> StoredFile:
        return StoredFile(self._relative(info), info.size, (info.mtime_ns or 0) / 1e9)

    def _relative(self, info: fs.FileInfo) -> str:
        return info.path.removeprefix(self.root).lstrip("/")


def _setting(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


@functools.cache
def _s3(bucket: str, endpoint: str | None, region: str | None) -> fs.S3FileSystem:
    """The store of a bucket. Without a region Amazon is asked for the bucket's, others get the usual."""
    if region is None:
        region = DEFAULT_REGION if endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(endpoint_override=endpoint, region=region, allow_delayed_open=True)
