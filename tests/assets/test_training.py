"""A checkpoint out of a small real lake: what training leaves behind, in one process and in several."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from assets import training
from assets.artifacts import run_artifact
from assets.curves import loss_curve
from assets.runner import run_shard
from assets.stage import ArtifactStage, RowStage, StageContext, StageGraph
from assets.swap_base import open_base
from assets.teacher import teacher_stage
from assets.training import TrainingConfig, checkpoint_folder, unused_gpus
from assets.training_data import teacher_data
from assets.training_rows import LakeRows, need_artifact, row_ids_of, training_rows
from models.faces.condition import PIXEL_CONDITION
from models.identity.loss_networks import CropName, FaceEncoderConfig, LossNetworkName
from models.swap.sampling_config import SamplingConfig
from pipeline.train_worker import main
from resources.lake.consent import Consent
from resources.lake.forget import forget
from resources.lake.housekeeping import collect_garbage, training_leftovers
from resources.lake.ingest import ingest
from resources.lake.lake import Artifact, Lake, LakeError
from resources.photos.marking import read_mark
from resources.tracking.layout import EVENTS_FOLDER, GRIDS_FOLDER, LOSSES_FILE

CRASH = Path(__file__).parents[1] / "crash"
BEFORE_TEACHER = ("aesthetics", "identity_embedding", "masks", "latents", "release", "prompt_embeddings")
VALIDATED = {
    "steps": 6,
    "batch_size": 4,
    "validation_interval": 2,
    "validation_images": 3,
    "checkpoint_interval": 2,
    "ema_decay": 0.9,
}
SAMPLING = SamplingConfig(steps=2, inversion=None)


def _quiet(text: str) -> None:
    """Take a report and say nothing."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of fifteen photographs with a release and prompts; not to be written to."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CRASH))
        small_orchard = importlib.import_module("small_orchard")
        small_orchard.write_photos(folder / "photos")
        graph = small_orchard.orchard()
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "photos", shard_size=6, consent=Consent.SYNTHETIC)
    graph.prepare(lake)
    _name_the_dots(lake)
    for name in BEFORE_TEACHER:
        stage = graph[name]
        if isinstance(stage, RowStage):
            for shard in lake.faces.snapshot().shards():
                run_shard(lake, graph, stage, shard, device="cpu", report=_quiet)
        elif isinstance(stage, ArtifactStage):
            if name == "release":
                _fill(lake, "identity_embedder", pa.array(["orchard_world_1"]))
            run_artifact(lake, graph, stage, device="cpu", report=_quiet)
    return folder / "lake"


def _name_the_dots(lake: Lake) -> None:
    """Give every photograph what the stage `condition` would: how its condition image is drawn."""
    recipe = PIXEL_CONDITION.model_dump_json()
    _fill(lake, "condition_recipe", pa.array([recipe]))


def _fill(lake: Lake, column: str, value: pa.Array) -> None:
    """Give every photograph the one value in a column of its own."""
    lake.faces.ensure_columns([pa.field(column, value.type)])
    for shard in lake.faces.snapshot().shards():
        rows = (
            lake.faces.snapshot()
            .scan(["image_id", "shard"], shard=shard)
            .drop_columns(["_rowid", "_rowaddr"])
        )
        same = pa.concat_arrays([value] * rows.num_rows)
        lake.faces.replace(rows.append_column(pa.field(column, value.type), same))


@pytest.fixture
def lake(released: Path, tmp_path: Path) -> Lake:
    """A copy of the released lake."""
    shutil.copytree(released, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


def _config(graph: StageGraph) -> TrainingConfig:
    config = graph["teacher"].config
    assert isinstance(config, TrainingConfig)
    return config


def _graph(
    monkeypatch: pytest.MonkeyPatch, face_encoder: FaceEncoderConfig | None = None, **options: object
) -> StageGraph:
    """The small orchard with a teacher of these settings."""
    monkeypatch.syspath_prepend(str(CRASH))
    graph = importlib.import_module("small_orchard").orchard()
    old = _config(graph)
    recipe = type(old.recipe)(**{**old.recipe.model_dump(), **options})
    settings = {"base": old.base, "recipe": recipe, "validation": SAMPLING}
    if face_encoder is not None:
        settings["face_encoder"] = face_encoder
    teacher = teacher_stage(TrainingConfig(**settings))
    return StageGraph(tuple(teacher if stage.name == "teacher" else stage for stage in graph.stages))


def _train(lake: Lake, graph: StageGraph, *, made: bool = True) -> Artifact:
    stage = graph["teacher"]
    assert isinstance(stage, ArtifactStage)
    result = run_artifact(lake, graph, stage, device="cpu", report=_quiet)
    assert result.made == made
    return result.artifact


def _events(run: Path) -> EventAccumulator:
    assert [path.name for path in (run / EVENTS_FOLDER).iterdir()] == ["events.out.tfevents.0"]
    events = EventAccumulator(str(run / EVENTS_FOLDER), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def _run_folder(lake: Lake, artifact: Artifact) -> Path:
    return Path(lake.uri) / str(artifact.metadata["losses"]).rpartition("/")[0]


def test_training_leaves_curves_grids_and_events_for_people(lake: Lake, monkeypatch) -> None:
    artifact = _train(lake, _graph(monkeypatch, **VALIDATED))
    run = _run_folder(lake, artifact)
    assert sorted(path.name for path in run.iterdir()) == [LOSSES_FILE, EVENTS_FOLDER, GRIDS_FOLDER]
    grids = sorted((run / GRIDS_FOLDER).iterdir())
    assert [path.name for path in grids] == [f"step_{step:08d}.png" for step in (2, 4, 6)]
    pixels = [np.asarray(Image.open(path)) for path in grids]
    side, gap = 32, 2
    assert {item.shape for item in pixels} == {(3 * side + 2 * gap, 4 * side + 3 * gap, 3)}
    first, last = pixels[0].astype(int), pixels[-1].astype(int)
    results = 3 * (side + gap)
    assert np.array_equal(first[:, :results], last[:, :results])  # the pairs are fixed
    assert not np.array_equal(first[:, results:], last[:, results:])  # what is made of them is not
    mark = read_mark(grids[0].read_bytes())
    assert mark is not None
    assert mark.stage == "teacher"
    events, losses = _events(run), (run / LOSSES_FILE).read_text().splitlines()
    for name in ("total", "flow", "identity", "lpips", "gradient_norm", "learning_rate"):
        told = [(item.step, item.value) for item in events.Scalars(name)]
        written = [(item["step"], item[name]) for item in map(json.loads, losses)]
        assert told == pytest.approx(np.array(written, np.float32))
    assert [item.step for item in events.Images("validation")] == [2, 4, 6]
    assert artifact.metadata["validation"] == grids[-1].relative_to(lake.uri).as_posix()
    with_grid = loss_curve(lake, artifact)
    without = dataclasses.replace(artifact, metadata={"losses": artifact.metadata["losses"]})
    taller, plain = (Image.open(io.BytesIO(data)) for data in (with_grid, loss_curve(lake, without)))
    assert taller.height > 2 * plain.height
    collect_garbage(lake, keep_seconds=0, safety_seconds=0)
    assert sorted((run / GRIDS_FOLDER).iterdir()) == grids
    assert training_leftovers(lake) == []


def test_validation_changes_no_weight_and_a_resumed_run_tells_nothing_twice(
    lake: Lake, monkeypatch, tmp_path: Path
) -> None:
    shutil.copytree(lake.uri, tmp_path / "broken")
    broken = Lake.open(tmp_path / "broken")
    graph = _graph(monkeypatch, **VALIDATED)
    whole = _train(lake, graph)
    passes = []

    def stop(point: str) -> None:
        if point == "mid_training":
            passes.append(point)
            if len(passes) == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "crash_point", stop)
        with pytest.raises(KeyboardInterrupt):
            _train(broken, graph)
    resumed = _train(broken, graph)
    assert resumed.digest == whole.digest
    events = _events(_run_folder(broken, resumed))
    assert [item.step for item in events.Scalars("total")] == [1, 2, 3, 4, 5, 6]
    assert [item.step for item in events.Images("validation")] == [2, 4, 6]
    grids = [
        sorted((_run_folder(*pair) / GRIDS_FOLDER).iterdir()) for pair in ((lake, whole), (broken, resumed))
    ]
    assert [path.read_bytes() for path in grids[0]] == [path.read_bytes() for path in grids[1]]


def test_rows_are_read_from_the_lake_as_they_would_be_from_memory(lake: Lake) -> None:
    release = need_artifact(lake, "release")
    kept = training_rows(lake, release, 16)
    lazy = training_rows(lake, release, 16, in_memory_bytes=0)
    wanted = np.array([5, 0, 5, 3])
    for name in ("target_NLC", "condition_NLC", "identity_ND"):
        array, reader = getattr(kept, name), getattr(lazy, name)
        assert isinstance(array, np.ndarray)
        assert isinstance(reader, LakeRows)
        assert len(reader) == len(array) == len(kept.image_ids)
        assert reader[wanted].dtype == array.dtype
        assert np.array_equal(reader[wanted], array[wanted])
    assert kept.target_NLC[wanted].shape == (4, 16, 96)
    assert kept.target_NLC[wanted].dtype == np.float16
    with pytest.raises(LakeError, match="nobody/00 is not in"):
        row_ids_of(lake.faces.snapshot(), ["nobody/00"])


def test_an_identity_loss_and_occluders_take_what_they_need_from_the_lake(lake: Lake, monkeypatch) -> None:
    losses = {"identity_loss_weight": 1.0, "identity_loss_start": 1, "identity_loss_threshold": 1.0}
    options = {"steps": 2, "batch_size": 4, "occlusion": 0.5, **losses}
    graph = _graph(monkeypatch, face_encoder=FaceEncoderConfig(network="world"), **options)
    assert graph["teacher"].weights == ("tiny_base", "world_embedder")
    artifact = _train(lake, graph)
    lines = (_run_folder(lake, artifact) / LOSSES_FILE).read_text().splitlines()
    identity = [json.loads(line)["identity"] for line in lines]
    assert identity[0] == 0 < identity[1] < 2
    base = open_base(
        StageContext(lake, graph["teacher"].resolve_weights(), "cpu", _quiet), _config(graph).base
    )
    data = teacher_data(lake, need_artifact(lake, "release"), base, _config(graph)).data
    choices = data.draw(np.random.default_rng(0), 64)
    occluded, plain = choices[choices[:, -1] >= 0][:4], choices[choices[:, -1] < 0][:4]
    kept = training_rows(lake, need_artifact(lake, "release"), 16)
    for chosen, same in ((occluded, False), (plain, True)):
        batch = data.read(chosen)
        stored = np.asarray(kept.target_NLC[chosen[:, 0]], np.float32)
        for row in range(len(chosen)):
            assert np.array_equal(batch.target_latents_BLC[row].numpy(), stored[row]) == same
        assert batch.points_B52 is not None
        # eyes at 24 and 40 of 64 px, half of that in the frame of 32
        assert batch.points_B52[:, :2, 0].tolist() == [[12, 20]] * len(chosen)


def test_an_identity_loss_compares_embeddings_of_one_network_and_crop(lake: Lake, monkeypatch) -> None:
    """Those of the identity path serve if their recorded embedder is the very network, else the reference."""
    config = _config(_graph(monkeypatch, identity_loss_weight=1.0, identity_loss_start=0))
    context = StageContext(lake, _graph(monkeypatch)["teacher"].resolve_weights(), "cpu", _quiet)
    base, release = open_base(context, config.base), need_artifact(lake, "release")

    def reference(network: LossNetworkName, crop: CropName = "aligned") -> np.ndarray | None:
        encoder = FaceEncoderConfig(network=network, crop=crop)
        now = {**release.metadata, "version": lake.faces.snapshot().version}
        wanted = config.model_copy(update={"face_encoder": encoder})
        data = teacher_data(lake, dataclasses.replace(release, metadata=now), base, wanted).data
        found = data.read(data.draw(np.random.default_rng(0), 4)).reference_BD
        return None if found is None else found.numpy()

    assert reference("world") is None
    with pytest.raises(
        LakeError, match=r"loss of world nearest_full_frame .* has those of orchard_world_1 alone"
    ):
        reference("world", "nearest_full_frame")
    with pytest.raises(LakeError, match="loss of dlib needs its own embeddings"):
        reference("dlib")
    _fill(lake, "identity_reference", pa.array([[0.5] * 128], pa.list_(pa.float32(), 128)))
    with pytest.raises(LakeError, match="identity_reference is of an unnamed network"):
        reference("dlib")
    _fill(lake, "identity_reference_network", pa.array(["dlib"]))
    found = reference("dlib")
    assert found is not None
    assert (found == 0.5).all()
    with pytest.raises(LakeError, match="is of ir_se50, but identity_reference is of dlib; set both"):
        reference("ir_se50")


def test_forgetting_a_photograph_takes_the_pictures_of_a_training_away(lake: Lake, monkeypatch) -> None:
    artifact = _train(lake, _graph(monkeypatch, **VALIDATED))
    run = _run_folder(lake, artifact)
    forget(lake, image_ids=["p0/00"])
    assert [path.name for path in run.iterdir()] == [LOSSES_FILE]
    assert loss_curve(lake, artifact).startswith(b"\x89PNG")


def test_several_gpus_of_which_one_is_used_are_told(lake: Lake, monkeypatch) -> None:
    said = {}
    for device, count in (("cpu", 4), ("cuda:0", 1), ("cuda:0", 4), ("xpu:0", 2)):
        monkeypatch.setattr(torch.accelerator, "device_count", lambda count=count: count)
        said[device, count] = unused_gpus(StageContext(lake, {}, device, _quiet), "teacher")
    assert said["cpu", 4] == said["cuda:0", 1] == ""
    assert "2 GPUs are visible;" in said["xpu:0", 2]
    assert "4 GPUs are visible; `accelerate launch --multi_gpu --num_processes 4" in said["cuda:0", 4]


SCRIPT = """
    import sys
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[2])
    from small_orchard import orchard
    from assets.stage import StageGraph
    from assets.teacher import teacher_stage
    from assets.together import train_together
    from assets.training import TrainingConfig
    from resources.lake.lake import Lake

    graph = orchard()
    config = TrainingConfig.model_validate_json(sys.argv[3])
    teacher = teacher_stage(config)
    graph = StageGraph(tuple(teacher if stage.name == "teacher" else stage for stage in graph.stages))
    result = train_together(Lake.open(sys.argv[1]), graph, teacher, device="cpu")
    print("result", None if result is None else result.made, flush=True)
"""


def test_two_processes_make_the_checkpoint_of_one(lake: Lake, monkeypatch, tmp_path: Path) -> None:
    shutil.copytree(lake.uri, tmp_path / "shared")
    shared = Lake.open(tmp_path / "shared")
    # plain SGD: Adam divides by the gradient's own size, rounding noise of a vanishing one included
    sgd = {"optimiser": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    graph = _graph(monkeypatch, **VALIDATED, **sgd)
    one = _train(lake, graph)
    script = tmp_path / "together.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), shared.uri, str(CRASH), graph["teacher"].config.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("result")) == [
        "result None",
        "result True",
    ]
    two = need_artifact(shared, "teacher")
    assert two.fingerprint == one.fingerprint
    weights = [
        load_file(checkpoint_folder(*pair) / "default.safetensors") for pair in ((lake, one), (shared, two))
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6)
    folders = [_run_folder(lake, one), _run_folder(shared, two)]
    names = [sorted(path.name for path in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    totals = [
        [json.loads(line)["total"] for line in (folder / LOSSES_FILE).read_text().splitlines()]
        for folder in folders
    ]
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    grids = [sorted((folder / GRIDS_FOLDER).iterdir())[-1] for folder in folders]
    difference = np.subtract(*(np.asarray(Image.open(path)).astype(int) for path in grids))
    assert np.abs(difference).max() <= 1
    # made and registered once, and fresh for whoever asks next
    assert len(shared.artifacts.snapshot().dataset.to_table(filter="stage = 'teacher'")) == 1
    assert _train(shared, graph, made=False).digest == two.digest


def test_the_worker_says_what_is_missing(lake: Lake, capsys) -> None:
    assert main(["--lake", f"{lake.uri}-elsewhere", "--stage", "teacher", "--device", "cpu"]) == 1
    assert "no lake at" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--lake", lake.uri, "--stage", "latents"])
    assert "invalid choice: 'latents'" in capsys.readouterr().err
