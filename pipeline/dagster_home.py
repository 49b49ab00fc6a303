"""DAGSTER_HOME: Dagster's settings, where it keeps runs and events, and which lake they belong to.

By default Dagster's state is SQLite files in the home: one machine, nothing to install. With
DAGSTER_POSTGRES_URL it is a PostgreSQL database, which several machines share.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from pipeline.options import default_home, project_root
from resources.lake.errors import LakeError
from resources.lake.lake import Lake

if TYPE_CHECKING:  # importing Dagster costs a second that `orchard plan` should not pay
    from dagster import DagsterInstance

CONFIG_NAME = "dagster.yaml"
LAKE_FILE = "orchard_lake"
LAKE_KEY = "orchard/lake"
"""Where the lake's URI stands: a file of the home, and a value of the storage, which homes may share."""

POSTGRES_URL = "DAGSTER_POSTGRES_URL"
DRIVER = "postgresql+psycopg2"
"""Scheme of the URL: what says `postgresql` alone gets psycopg 3 from SQLAlchemy 2.1, and Dagster needs 2."""

POSTGRES_SETTINGS = f"""
# runs, events and ticks; the address and its password stay in the environment
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_URL}
"""


def dagster_home() -> Path:
    """DAGSTER_HOME, or the project's own `.dagster`, made ready with the project's dagster.yaml.

    Raises LakeError where DAGSTER_POSTGRES_URL and the home's dagster.yaml contradict each other.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or default_home()).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    config = home / CONFIG_NAME
    source = project_root() / CONFIG_NAME
    if not config.exists() and source.exists():
        unfinished = config.with_name(f"{CONFIG_NAME}.{os.getpid()}")
        shutil.copyfile(source, unfinished)
        if os.environ.get(POSTGRES_URL):
            with unfinished.open("a", encoding="utf-8") as file:
                file.write(POSTGRES_SETTINGS)
        unfinished.replace(config)
    _check_storage(config)
    return home


def storage_place(home: Path) -> str:
    """Where Dagster's state lies and why, for people; no user and no password."""
    url = os.environ.get(POSTGRES_URL)
    if not url:
        return f"SQLite in {home} ({POSTGRES_URL} is not set)"
    parts = urlsplit(url)
    host = parts.hostname or ", ".join(parse_qs(parts.query).get("host", ["this machine"]))
    return f"PostgreSQL, {parts.path.strip('/') or 'the default database'} at {host} ({POSTGRES_URL})"


def _check_storage(config: Path) -> None:
    """Refuse to keep state anywhere but where both the environment and the home say."""
    wants = bool(os.environ.get(POSTGRES_URL))
    has = config.exists() and POSTGRES_URL in config.read_text(encoding="utf-8")
    if wants and not has:
        raise LakeError(
            f"{POSTGRES_URL} is set, but {config} does not name it, so Dagster would not use that database; "
            "use a new DAGSTER_HOME, or add this to the file:\n" + POSTGRES_SETTINGS.strip()
        )
    if has and not wants:
        raise LakeError(f"{config} keeps Dagster's state in PostgreSQL: set {POSTGRES_URL} to its address")
    if wants and importlib.util.find_spec("dagster_postgres") is None:
        raise LakeError(f"{POSTGRES_URL} needs the extra `cluster`: pip install 'orchard-faces[cluster]'")
    if wants and not os.environ[POSTGRES_URL].startswith(f"{DRIVER}://"):
        raise LakeError(f"{POSTGRES_URL} must begin with {DRIVER}:// (Dagster uses that driver)")


@contextlib.contextmanager
def open_instance(lake: Lake) -> Iterator[DagsterInstance | None]:
    """The Dagster instance of this lake, or None when it belongs to another lake.

    Partition keys name shards of one lake; a home, and a PostgreSQL database, is bound to the first lake that
    uses it. Raises LakeError when the database does not answer.
    """
    home = dagster_home()
    bound = home / LAKE_FILE
    if not bound.exists():
        bound.write_text(lake.uri, encoding="utf-8")
    if bound.read_text(encoding="utf-8") != lake.uri:
        yield None
        return
    with _connected(home) as instance:
        cursors = instance.daemon_cursor_storage
        owner = cursors.get_cursor_values({LAKE_KEY}).get(LAKE_KEY)
        if owner is None:
            cursors.set_cursor_values({LAKE_KEY: lake.uri})
        yield instance if owner in (None, lake.uri) else None


def _connected(home: Path) -> DagsterInstance:
    import dagster as dg

    if not os.environ.get(POSTGRES_URL):
        return dg.DagsterInstance.from_config(str(home))
    from dagster_postgres.utils import DagsterPostgresException

    try:
        return dg.DagsterInstance.from_config(str(home))
    except DagsterPostgresException as error:
        raise LakeError(
            f"no answer from {storage_place(home)}: {error.__cause__}; what is in the lake stays, and the "
            "next command tells Dagster of it"
        ) from error
