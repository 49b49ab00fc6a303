"""`orchard` and `dg` as a user types them, and one `orchard ui` that several tests share.

`dg`, `orchard ui` and some calls of `orchard` are processes of their own. Most calls of `orchard` run its
`main` in the tests' process: same command line, environment, output and exit code, while libraries are loaded
once for all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.worlds.portraits import write_portraits
from pipeline.cli import main
from pipeline.profiles import profile
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "smoke"
SHARDS = ("shard-00000", "shard-00001", "shard-00002")
STAGES = ("landmarks", "iris", "masks")
"""Row stages that are computed here; each costs a fraction of a second for twelve photographs."""

START_SECONDS = 240
RUN_SECONDS = 400
"""How long to wait on a crowded machine; idle, both take a tenth of it."""

CACHES = {".pytest_cache", ".hypothesis", ".ruff_cache", ".import_linter_cache", "__pycache__"}
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
)


def run_here(arguments: Sequence[str], settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`orchard` in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["orchard", *arguments])
        for name, value in settings.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(
        arguments, int(ended.value.code or 0), output.getvalue(), errors.getvalue()
    )


def run_alone(arguments: Sequence[str], settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`orchard` in a process of its own, started in the repository's folder."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


@pytest.fixture(scope="session")
def orchard_here() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_here


@pytest.fixture(scope="session")
def orchard_alone() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_alone


@dataclass(frozen=True)
class Place:
    """A lake with its photographs and its Dagster home, all in a folder of one test."""

    folder: Path
    more_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return Lake.open(self.folder / "lake")

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def home(self) -> Path:
        return self.folder / "dagster"

    @property
    def settings(self) -> dict[str, str]:
        return {
            "DAGSTER_HOME": str(self.home),
            "ORCHARD_LAKE": str(self.folder / "lake"),
            "ORCHARD_PROFILE": PROFILE,
            "ORCHARD_DEVICE": "cpu",
            "ORCHARD_REFRESH_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            **self.more_settings,
        }

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.settings}

    def orchard(self, *arguments: str, alone: bool = False) -> str:
        """Standard output of `orchard`, which must succeed."""
        done = (run_alone if alone else run_here)(arguments, self.settings)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def dg(self, *arguments: str) -> str:
        return self.run(str(Path(sys.executable).with_name("dg")), *arguments)

    def run(self, *command: str) -> str:
        """Standard output of a command started in the repository's folder; it must succeed."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@dataclass(frozen=True)
class Server:
    """A running `orchard ui`."""

    place: Place
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def asset(self, name: str, fields: str) -> dict[str, Any]:
        """Fields of an asset; `$partitions` are the three shards."""
        query = (
            "query($key: AssetKeyInput!, $partitions: [String!]!) {"
            f" assetNodeOrError(assetKey: $key) {{ ... on AssetNode {{ assetKey {{ path }} {fields} }} }} }}"
        )
        return self.graphql(query, {"key": {"path": [name]}, "partitions": list(SHARDS)})["assetNodeOrError"]

    def runs(self) -> dict[str, str]:
        """Status of every run by its id."""
        found = self.graphql("{ runsOrError { ... on Runs { results { runId status } } } }")
        return {run["runId"]: run["status"] for run in found["runsOrError"]["results"]}

    def processes(self) -> list[psutil.Process]:
        """The server, and everything that it started."""
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]


def wait_for(what: str, look: Callable[[], Any], seconds: float, pause: float = 0.5) -> Any:
    """The first true answer of `look`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"no {what} in {seconds:g} s"
        time.sleep(pause)


@pytest.fixture(scope="session")
def patiently() -> Callable[..., Any]:
    return wait_for


@pytest.fixture(scope="session", autouse=True)
def repository_folder_stays_clean() -> Iterator[None]:
    """Nothing that is started here may leave a file in the repository's folder."""

    def names() -> set[str]:
        return {path.name for path in ROOT.iterdir()} - CACHES

    before = names()
    yield
    assert names() - before == set()


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs each of four rendered people. Read only."""
    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, identities=4, photos=3, size=128, swap_pairs=0)
    return folder / "photos"


@pytest.fixture(scope="session")
def make_place(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """A function that makes a lake of three shards with four photographs each, nothing computed."""

    def make(name: str) -> Place:
        place = Place(tmp_path_factory.mktemp(name))
        shutil.copytree(portraits, place.photos)
        lake = Lake.open(place.folder / "lake", create=True)
        ingest(lake, place.photos, shard_size=4, consent=Consent.SYNTHETIC)
        return place

    return make


@pytest.fixture(scope="session")
def run_place(make_place: Callable[[str], Place]) -> Place:
    """A lake whose `STAGES` were computed by `orchard run`. Read only."""
    place = make_place("orchard_run")
    report = json.loads(place.orchard("run", *STAGES, "--json", alone=True))
    assert report["computed_rows"] == dict.fromkeys(STAGES, 12)
    return place


@pytest.fixture(scope="session")
def digests() -> Callable[[Place, str], dict[str, str]]:
    """A function that gives the lake's data version of every shard of a stage."""
    from assets.planner import Planner

    graph = profile(PROFILE).graph()

    def find(place: Place, stage: str) -> dict[str, str]:
        return Planner(place.lake, graph).table("faces").shard_digests(stage)

    return find


@pytest.fixture(scope="session")
def server(make_place: Callable[[str], Place], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One `orchard ui` for all tests: webserver, daemon and code server, ended with all their children."""
    place = make_place("ui")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("ui_log") / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)],
            cwd=ROOT,
            env=place.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        server = Server(place, process, port)

        def healthy() -> bool:
            assert process.poll() is None, f"orchard ui ended:\n{log.read_text()[-3000:]}"
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                query = "{ instance { daemonHealth { allDaemonStatuses { healthy required } } } }"
                found = server.graphql(query)["instance"]["daemonHealth"]["allDaemonStatuses"]
                return all(daemon["healthy"] for daemon in found if daemon["required"])
            return False

        wait_for("webserver and daemon", healthy, START_SECONDS)
        yield server
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group: politely, then every member that is left."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Debian's Chromium. `.ci/run` installs it, so its absence is a fault and not a reason to skip."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return Path(found)
    pytest.fail("these tests need a real browser: apt-get install -y --no-install-recommends chromium")


@pytest.fixture
def browser_page(chromium: Path) -> Iterator[Any]:
    """A page of a real, headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=list(CHROMIUM_FLAGS))
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(120_000)
            yield page
        finally:
            browser.close()
