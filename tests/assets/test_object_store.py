"""The same lake on an object store: moto's S3, served on the loopback interface by a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pyarrow import fs
from typer.testing import CliRunner

from assets.release import released_rows
from pipeline.cli import app
from pipeline.execution import run_stages
from resources.lake import failpoints, leases
from resources.lake.consent import Consent
from resources.lake.damage import find_damage
from resources.lake.errors import LakeError
from resources.lake.failpoints import VARIABLE, arm
from resources.lake.forget import forget
from resources.lake.housekeeping import collect_garbage
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.lake.remote import LISTING, upload

HERE = Path(__file__).parent
WRITER = HERE / "writer.py"
SMALL_ORCHARD = HERE.parent / "crash" / "small_orchard.py"
BUCKET = "orchard"
TRAIN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("small_orchard", sys.argv[1])
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
from pipeline.execution import run_stages
from resources.lake.lake import Lake
import torch
torch.set_num_threads(1)
graph = small.orchard()
run_stages(Lake.open(sys.argv[2]), graph, graph.names[: graph.names.index("teacher") + 1], device="cpu")
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket's URI; environment variables say where it is, as they would for a real one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "ORCHARD_CACHE": str(tmp_path_factory.mktemp("cache")),
        "DAGSTER_HOME": str(tmp_path_factory.mktemp("dagster")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
            try:
                _wait_for(port)
                _store(allow_bucket_creation=True).create_dir(BUCKET)
                yield f"s3://{BUCKET}"
            finally:
                server.kill()


def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server did not start within a minute; is `moto[server]` installed?")


def _store(**options: bool) -> fs.S3FileSystem:
    return fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region="us-east-1", **options)


def holders(uri: str, piece: bytes) -> list[str]:
    """Objects under a URI that hold these bytes, looked for without any code of Orchard."""
    store = _store()
    found = store.get_file_info(fs.FileSelector(uri.removeprefix("s3://"), recursive=True))
    return [item.path for item in found if item.is_file and piece in store.open_input_file(item.path).read()]


@pytest.fixture(scope="module")
def load_script() -> Callable[[Path], ModuleType]:
    """A Python file beside the tests as a module."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def writer(load_script) -> ModuleType:
    return load_script(WRITER)


def ids(lake: Lake) -> list[str]:
    return lake.faces.snapshot().scan(["image_id"])["image_id"].to_pylist()


def test_writers_of_many_shards_and_of_one_beside_an_ingest(bucket: str, tmp_path: Path, writer) -> None:
    """As in test_many_writers.py: eight writers of eight shards, another on one of them, and an ingest."""
    roots = [tmp_path / name for name in ("here", "there")]
    for root in roots:
        for index in range(8 * writer.SHARD_SIZE):
            person, shot = divmod(index, writer.SHARD_SIZE)
            writer.paint(root / f"p{person}" / f"{shot:02d}.png", 2 * index + 1)
    graph = writer.stages()
    here, there = (Lake.open(uri, create=True) for uri in (tmp_path / "lake", f"{bucket}/many"))
    for lake, root in zip((here, there), roots, strict=True):
        assert ingest(lake, root, shard_size=writer.SHARD_SIZE).added == 48
        graph.prepare(lake)
    shards = there.faces.snapshot().shards()
    assert len(shards) == 8
    writer.at_once(
        there,
        *(("compute", shard, "level,edge,words", 1) for shard in shards),
        ("compute", shards[3], "level,edge,words", 2),
        ("bring", roots[1], 1),
    )
    there.faces.snapshot().dataset.validate()
    assert len(set(ids(there))) == len(ids(there)) == 49
    left = run_stages(there, graph, graph.names, device="cpu").computed_rows
    assert all(count <= 2 for count in left.values())  # changed and new photographs only
    writer.bring(here, str(roots[0]), "1")
    run_stages(here, graph, graph.names, device="cpu")
    assert writer.digests(there, graph) == writer.digests(here, graph)


def test_two_ingests_at_once_neither_double_nor_lose_a_row(bucket: str, tmp_path: Path, writer) -> None:
    for index in range(20):
        writer.paint(tmp_path / "both" / f"p{index % 4}" / f"{index:02d}.png", 10 * index)
        writer.paint(tmp_path / "second" / f"q{index % 4}" / f"{index:02d}.png", 10 * index + 5)
    lake = Lake.open(f"{bucket}/twice", create=True)
    one, other = tmp_path / "both", tmp_path / "second"
    writer.at_once(lake, ("take", one, other), ("take", other, one))
    assert len(ids(lake)) == len(set(ids(lake))) == 40
    rows = lake.faces.snapshot().scan(["shard"])["shard"].to_pylist()
    assert {shard: rows.count(shard) for shard in set(rows)} == dict.fromkeys(sorted(set(rows)), 6) | {
        "shard-00006": 4
    }


def test_an_ingest_refuses_while_another_is_alive(
    bucket: str, tmp_path: Path, writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 1.0)
    writer.paint(tmp_path / "p" / "0.png", 3)
    lake = Lake.open(f"{bucket}/busy", create=True)
    with (
        leases.lease(lake.uri, "ingest", "alone"),
        pytest.raises(LakeError, match=rf"another ingest is running .* \(process {os.getpid()} on"),
    ):
        ingest(lake, tmp_path)
    assert ingest(lake, tmp_path).added == 1


def test_a_folder_that_was_put_in_part_is_taken_for_nothing(bucket: str, tmp_path: Path) -> None:
    lake = Lake.open(f"{bucket}/parts", create=True)
    folder = lake.folder("checkpoints", "abc")
    for name in ("weights", "manifest"):
        (folder / name).write_text(name)
    program = (
        "import sys; from pathlib import Path; from resources.lake.lake import Lake;"
        "Lake(sys.argv[1]).publish(Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, lake.uri, str(folder)]
    done = subprocess.run(command, env={**os.environ, VARIABLE: "mid_checkpoint:1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [item.location for item in lake.storage.files("checkpoints")] == ["checkpoints/abc/manifest"]
    folder.rename(tmp_path / "made")
    with pytest.raises(LakeError, match="put there in part only"):
        lake.fetch("checkpoints/abc")
    upload(lake.storage, tmp_path / "made", "checkpoints/abc")
    assert (lake.fetch("checkpoints/abc") / "weights").read_text() == "weights"
    (folder / "weights").unlink()
    folder.rename(tmp_path / "aside")
    lake.storage.remove("checkpoints/abc/weights")
    lake.storage.write("checkpoints/abc/weights", b"other")
    with pytest.raises(LakeError, match="not the file that was put there"):
        lake.fetch("checkpoints/abc")
    assert not (lake.working_root / "checkpoints" / "abc").exists()
    with pytest.raises(LakeError, match="is not there"):
        lake.fetch("checkpoints/none")


def test_killed_between_upload_and_register_another_machine_goes_on(
    bucket: str, tmp_path: Path, writer: ModuleType, load_script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rerun has an empty cache: it takes the training up from the state in the store. Then forget, gc."""
    small = load_script(SMALL_ORCHARD)
    small.write_photos(tmp_path / "photos")
    graph = small.orchard()
    names = graph.names[: graph.names.index("teacher") + 1]
    here, there = (Lake.open(uri, create=True) for uri in (tmp_path / "lake", f"{bucket}/trained"))
    for lake in (here, there):
        ingest(lake, tmp_path / "photos", shard_size=small.SHARD_SIZE, consent=Consent.SYNTHETIC)
        graph.prepare(lake)
    # before_write is passed by the release first and then by the teacher, after its upload
    run_stages(there, graph, names[: names.index("teacher")], device="cpu")
    command = [sys.executable, "-c", TRAIN, str(SMALL_ORCHARD), there.uri]
    done = subprocess.run(command, env={**os.environ, VARIABLE: "before_write:1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert there.current_artifact("teacher") is None
    prompts = there.current_artifact("prompt_embeddings")
    assert prompts is not None
    (uploaded,) = set(there.storage.children("checkpoints")) - {prompts.location}
    assert there.storage.exists(f"{uploaded}/{LISTING}")

    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "another_machine"))
    monkeypatch.setattr(leases, "DEAD_AFTER_SECONDS", 3.0)
    arm("mid_training:1000")
    run_stages(there, graph, names, device="cpu")
    assert failpoints.passes()["mid_training"] == small.STEPS % small.CHECKPOINT_INTERVAL
    arm("")
    run_stages(here, graph, names, device="cpu")
    made, twin, release = (
        lake.current_artifact(stage)
        for lake, stage in ((there, "teacher"), (here, "teacher"), (there, "release"))
    )
    assert made is not None
    assert twin is not None
    assert release is not None
    assert (made.digest, made.location) == (twin.digest, uploaded)
    assert writer.digests(there, graph) == writer.digests(here, graph)
    kept = [made.metadata["losses"], made.metadata["tensorboard"]]
    assert [item.location for item in there.storage.files("training")] == kept

    person, _, shot = released_rows(there, release, "train")[0][0].partition("/")
    photo = (tmp_path / "photos" / person / f"{shot}.png").read_bytes()
    assert holders(there.uri, photo)
    report = forget(there, identities=[person])
    assert holders(there.uri, photo) == []
    assert report.lists == [release.location]
    assert [item.stage for item in report.tainted] == ["teacher"]
    assert not there.working_root.exists()
    assert all(not name.startswith(f"{person}/") for name in ids(there))
    assert person not in released_rows(there, release, "train")[1]
    there.storage.write("checkpoints/nobodys/adapter.safetensors", b"0" * 100)
    collect_garbage(there, keep_seconds=0, safety_seconds=0)
    assert set(there.storage.children("checkpoints")) == {uploaded, prompts.location}
    assert (there.fetch(uploaded) / "manifest.json").is_file()
    assert collect_garbage(there, keep_seconds=0, safety_seconds=0).bytes == 0


def test_the_commands(bucket: str, tmp_path: Path, writer) -> None:
    for index in range(4):
        writer.paint(tmp_path / "photos" / f"p{index % 2}" / f"{index}.png", 40 * index)
    lake = ["--lake", f"{bucket}/commands", "--profile", "smoke"]

    def orchard(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "4 added" in orchard("ingest", str(tmp_path / "photos"), *lake[:2])
    assert "4 photographs" in orchard("status", *lake)
    assert f"{bucket}/commands/report.html" in orchard("report", *lake)
    assert Lake(f"{bucket}/commands").storage.exists("report.html")
    assert "removed report.html" in orchard("forget", "--image", "p0/0", "--yes", *lake[:2])
    assert "freed" in orchard("gc", "--older-than", "0", *lake[:2])
    assert "reads well" in orchard("repair", "--check", *lake)
    with pytest.raises(LakeError, match="a folder or an s3:// URI"):
        CliRunner().invoke(app, ["status", "--lake", "gs://bucket/lake"], catch_exceptions=False)


def test_a_lost_object_is_damage(bucket: str, tmp_path: Path, writer) -> None:
    for index in range(2):
        writer.paint(tmp_path / "photos" / "p" / f"{index}.png", 40 * index)
    lake = Lake.open(f"{bucket}/damaged", create=True)
    ingest(lake, tmp_path / "photos")
    assert find_damage(lake, {}) == []
    (data,) = lake.storage.files("faces.lance/data")
    lake.storage.remove(data.location)
    assert [item.kind for item in find_damage(lake, {})] == ["rows"]
