"""A hub of our own on the loopback interface, which speaks as much of the protocol as downloads need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Hub:
    """Files by repository and name; `break_after` ends transfers after so many bytes, once each."""

    url: str = ""
    commit: str = COMMIT
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    break_after: int | None = None
    ranges: list[str] = field(default_factory=list)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._file(body=False)

        def do_GET(self) -> None:
            if self.path.startswith("/api/"):
                self._about()
            else:
                self._file(body=True)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _about(self) -> None:
            found = re.match(r"/api/models/([^/]+/[^/?]+)(?:/(?:revision|tree)/([^/?]+))?", self.path)
            assert found is not None
            files = hub.files.get(found[1])
            if files is None:
                return self._refuse(404, "RepoNotFound")
            names = [{"rfilename": name} for name in files]
            content: object = {"id": found[1], "sha": hub.commit, "siblings": names, "private": False}
            if "/tree/" in self.path:
                content = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return None

        def _file(self, body: bool) -> None:
            found = re.match(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            assert found is not None, self.path
            repository, revision, name = found[1], found[2], found[3]
            if repository not in hub.files:
                return self._refuse(404, "RepoNotFound")
            if repository in hub.gated:
                return self._refuse(403, "GatedRepo")
            if revision not in ("main", hub.commit):
                return self._refuse(404, "RevisionNotFound")
            if name not in hub.files[repository]:
                return self._refuse(404, "EntryNotFound")
            data = hub.files[repository][name]
            start = 0
            asked = self.headers.get("Range")
            if asked:
                hub.ranges.append(asked)
                start = int(re.findall(r"\d+", asked)[0])
            rest = data[start:]
            self.send_response(206 if asked else 200)
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(rest)))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return None
            if hub.break_after is not None:
                rest, hub.break_after = rest[: hub.break_after], None
                self.wfile.write(rest)
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return None
            self.wfile.write(rest)
            return None

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub that huggingface_hub is pointed at, with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights with no ledger."""
    folder = tmp_path / "weights"
    monkeypatch.setenv("ORCHARD_WEIGHTS", str(folder))
    return folder
