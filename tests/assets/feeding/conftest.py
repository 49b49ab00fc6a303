"""A small real lake to feed from."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from PIL import Image

from assets.artifacts import run_artifact
from assets.condition import OWN_CONDITION
from assets.feeding import PixelRows, released_pixels
from assets.runner import run_shard
from assets.stage import ArtifactStage, RowStage
from models.faces.condition import PIXEL_CONDITION
from resources.lake.consent import Consent
from resources.lake.ingest import ingest
from resources.lake.lake import Lake

CRASH = Path(__file__).parents[2] / "crash"
SIZE = 32
BEFORE = ("aesthetics", "identity_embedding", "masks", "latents", "release", "prompt_embeddings")


@pytest.fixture(scope="package")
def small_orchard() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CRASH))
        return importlib.import_module("small_orchard")


@pytest.fixture(scope="package")
def lake(tmp_path_factory: pytest.TempPathFactory, small_orchard: ModuleType) -> Lake:
    """Fifteen JPEGs of 64 px in three shards, one replaced, annotated and released. Read only."""
    folder = tmp_path_factory.mktemp("feeding")
    small_orchard.write_photos(folder / "png")
    for path in sorted((folder / "png").glob("*/0*.png")):
        target = folder / "photos" / path.parent.name / f"{path.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target, quality=90)
    lake = Lake.open(folder / "lake", create=True)
    ingest(lake, folder / "photos", shard_size=6, consent=Consent.SYNTHETIC)
    Image.open(folder / "png" / "p2" / "02.png").rotate(90).save(folder / "photos" / "p1" / "00.jpg")
    ingest(lake, folder / "photos", shard_size=6, consent=Consent.SYNTHETIC)
    graph = small_orchard.orchard()
    graph.prepare(lake)
    text = pa.field("condition_recipe", pa.string())
    lake.faces.ensure_columns([text])
    for shard in lake.faces.snapshot().shards():
        rows = lake.faces.snapshot().scan(["image_id", "shard"], shard=shard).select(["image_id", "shard"])
        drawn = pa.array([PIXEL_CONDITION.model_dump_json()] * rows.num_rows)
        lake.faces.replace(rows.append_column(text, drawn))
    for name in BEFORE:
        stage = graph[name]
        if isinstance(stage, RowStage):
            for shard in lake.faces.snapshot().shards():
                run_shard(lake, graph, stage, shard, device="cpu", report=lambda text: None)
        elif isinstance(stage, ArtifactStage):
            run_artifact(lake, graph, stage, device="cpu", report=lambda text: None)
    return lake


@pytest.fixture(scope="package")
def rows(lake: Lake) -> PixelRows:
    columns = ("identity_embedding", "image_id", "width")
    return released_pixels(lake, size=SIZE, condition=OWN_CONDITION, columns=columns)
