"""Fetching from a real HTTP server: pinned, resumed, checked, recorded; every refusal is one sentence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from resources.weights.entries import HubFolderWeight, HubWeight, LocalWeight, WeightEntry
from resources.weights.errors import WeightError
from resources.weights.ledger import read_ledger
from resources.weights.pull import pull
from resources.weights.resolve import resolve

ABOUT: dict[str, Any] = {"licence": "MIT", "commercial_ok": True, "trained_on": "nothing"}
CONTENT = save({"weight": np.random.default_rng(0).random((300, 300), np.float32)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPOSITORY, FILE = "someone/thing", "net.safetensors"


def manifest(**facts: Any) -> dict[str, WeightEntry]:
    return {"net": HubWeight(role="net", repository=REPOSITORY, file=FILE, **ABOUT, **facts)}


@pytest.fixture
def filled(hub: Any) -> Any:
    hub.files[REPOSITORY] = {FILE: CONTENT}
    return hub


def test_a_file_is_pulled_recorded_and_pinned_from_then_on(filled: Any) -> None:
    entries, told = manifest(), []
    with pytest.raises(WeightError, match=r"was never pulled. To mend it: orchard weights pull net$"):
        resolve("net", entries)
    found = pull("net", entries, report=told.append)
    assert (found.sha256, found.path.read_bytes()) == (SHA256, CONTENT)
    record = read_ledger().trusted["net"]
    assert (record.sha256, record.size, record.revision) == (SHA256, len(CONTENT), filled.commit)
    assert "nobody has stated its digest" in told[0]
    # the owners move their branch to another file: ours is still the one that was recorded
    filled.files[REPOSITORY][FILE] = CONTENT[:-4] + b"bad!"
    assert pull("net", entries, report=told.append).sha256 == SHA256
    assert len(told) == 1


def test_another_file_under_a_recorded_commit_is_refused(filled: Any, tmp_path: Path) -> None:
    pull("net", manifest(), report=lambda text: None)
    filled.files[REPOSITORY][FILE] = CONTENT[:-4] + b"bad!"
    for path in (tmp_path / "hub").rglob("*"):
        if path.is_file() or path.is_symlink():
            path.unlink()
    with pytest.raises(WeightError, match=f"but {SHA256} was recorded on .*; it was not taken"):
        pull("net", manifest(), report=lambda text: None)
    found = pull("net", manifest(), again=True, report=lambda text: None)
    assert found.sha256 != SHA256
    assert read_ledger().trusted["net"].sha256 == found.sha256


def test_a_wrong_hash_or_size_is_refused_and_nothing_is_recorded(filled: Any) -> None:
    wrong = "0" * 64
    with pytest.raises(WeightError, match=f"has sha256 {SHA256}, but {wrong} is stated; it was not taken"):
        pull("net", manifest(sha256=wrong), report=print)
    with pytest.raises(WeightError, match="stated are 12: it is cut short or another file"):
        pull("net", manifest(size=12), report=print)
    assert read_ledger().trusted == {}


def test_a_broken_transfer_is_taken_up_where_it_stopped(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # the library keeps whole pieces, of 10 MB each by default
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    filled.break_after = 100_000
    entries = manifest(sha256=SHA256)
    pull("net", entries, report=print)
    assert filled.break_after is None, "the transfer was broken"
    assert resolve("net", entries).path.read_bytes() == CONTENT
    starts = [int(text.removeprefix("bytes=").split("-")[0]) for text in filled.ranges]
    assert any(start >= 1 << 16 for start in starts), starts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hub: hub.gated.add(REPOSITORY), "is gated .*accept its terms on the hub, set HF_TOKEN"),
        (lambda hub: hub.files.clear(), "the hub does not show someone/thing to you"),
        (lambda hub: hub.files[REPOSITORY].clear(), "does not exist at revision main"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(filled: Any, change: Any, message: str) -> None:
    change(filled)
    with pytest.raises(WeightError, match=message) as caught:
        pull("net", manifest(), report=print)
    assert "\n" not in str(caught.value)


def test_an_unknown_commit_is_said(filled: Any) -> None:
    with pytest.raises(WeightError, match=r"does not exist at revision f{40}"):
        pull("net", manifest(revision="f" * 40), report=print)


def test_without_a_network_the_way_on_is_said(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits longer before each new try
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        nobody + "/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(WeightError, match=r"broke off .* pull net` again"):
        pull("net", manifest(), report=print)


def test_a_folder_is_one_weight(filled: Any) -> None:
    filled.files[REPOSITORY] = {"a/one.json": b"{}", "a/two.safetensors": CONTENT, "readme.md": b"no"}
    entries: dict[str, WeightEntry] = {
        "net": HubFolderWeight(role="net", repository=REPOSITORY, files=("a/*",), **ABOUT)
    }
    found = pull("net", entries, report=print)
    names = sorted(path.name for path in found.path.rglob("*") if path.is_file())
    assert names == ["one.json", "two.safetensors"]
    (found.path / "a/one.json").unlink()
    (found.path / "a/one.json").write_bytes(b"[]")
    with pytest.raises(WeightError, match="expected is sha256"):
        resolve("net", entries)
    (found.path / "a/two.safetensors").unlink()
    (found.path / "a/one.json").unlink()
    with pytest.raises(WeightError, match="pull net"):
        resolve("net", entries)


def test_a_file_of_the_users_own_is_taken_over(weights_folder: Path) -> None:
    entries: dict[str, WeightEntry] = {
        "net": LocalWeight(role="net", path=Path("net/net.onnx"), how_to_get="ask its owner", **ABOUT)
    }
    with pytest.raises(
        WeightError, match=r"there is no file at .* To mend it: ask its owner; then put it at"
    ):
        pull("net", entries, report=print)
    path = weights_folder / "net/net.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    with pytest.raises(WeightError, match="nobody has recorded yet"):
        resolve("net", entries)
    assert pull("net", entries, report=print).sha256 == SHA256
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(WeightError, match=f"expected is sha256 {SHA256}"):
        resolve("net", entries)
