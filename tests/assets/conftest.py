"""A small real graph over a real lake: brightness of a photo, its band, and the sum of all bands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from assets.stage import (
    ArtifactStage,
    Input,
    NoConfig,
    RowStage,
    Stage,
    StageConfig,
    StageContext,
    StageGraph,
)
from resources.lake.consent import Consent
from resources.lake.digest import digest_bytes
from resources.lake.ingest import ingest
from resources.lake.lake import Artifact, Lake
from resources.lake.schema import Column
from resources.photos.reasons import Reason, RowError


class BrightnessConfig(StageConfig):
    darkest: float = 5.0


def brightness_stage(config: BrightnessConfig | None = None) -> RowStage:
    settings = config or BrightnessConfig()

    def load(context: StageContext):
        def compute(rows: Sequence) -> list:
            outcomes = []
            for row in rows:
                value = float(row["image"].mean())
                if value < settings.darkest:
                    outcomes.append(RowError(Reason.LOW_QUALITY, f"brightness {value:.1f}"))
                else:
                    outcomes.append({"brightness": value, "channels": row["image"].mean((0, 1))})
            return outcomes

        return compute

    return RowStage(
        name="brightness",
        code_version="1",
        description="Mean of all pixels.",
        config=settings,
        inputs=(Input("faces", ("image",)),),
        outputs=(
            Column("brightness", pa.float32(), quantum=0.01),
            Column("channels", pa.list_(pa.float32(), 3), quantum=0.01),
        ),
        load=load,
        batch_size=4,
        preview=lambda row: row["image"],
    )


def band_stage() -> RowStage:
    def load(context: StageContext):
        return lambda rows: [{"band": int(row["brightness"] // 64)} for row in rows]

    return RowStage(
        name="band",
        code_version="1",
        description="Brightness in four bands.",
        config=NoConfig(),
        inputs=(Input("brightness", ("brightness",)),),
        outputs=(Column("band", pa.int16()),),
        load=load,
    )


def caption_stage() -> RowStage:
    def load(context: StageContext):
        return lambda rows: [{"caption": f"band {row['band']}"} for row in rows]

    return RowStage(
        name="caption",
        code_version="1",
        description="The band in words.",
        config=NoConfig(),
        inputs=(Input("band", ("band",)),),
        outputs=(Column("caption", pa.string()),),
        load=load,
    )


def total_stage() -> ArtifactStage:
    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        rows = context.lake.faces.snapshot().scan(["band"])["band"].to_pylist()
        total = sum(row for row in rows if row is not None)
        digest = digest_bytes(str(total).encode())
        return Artifact("total", fingerprint, digest, "1", metadata={"total": total})

    return ArtifactStage(
        name="total",
        code_version="1",
        description="Sum of all bands.",
        config=NoConfig(),
        inputs=(Input("band"),),
        build=build,
    )


@pytest.fixture
def graph() -> StageGraph:
    return StageGraph((brightness_stage(), band_stage(), caption_stage(), total_stage()))


@pytest.fixture
def with_stage() -> Callable[[StageGraph, Stage], StageGraph]:
    """The graph with one stage exchanged for another of the same name."""

    def exchange(graph: StageGraph, stage: Stage) -> StageGraph:
        return StageGraph(tuple(stage if old.name == stage.name else old for old in graph.stages))

    return exchange


@pytest.fixture
def changed(with_stage: Callable) -> Callable[..., StageGraph]:
    """The graph with fields of one stage changed, e.g. `changed(graph, "band", code_version="2")`."""

    def change(graph: StageGraph, name: str, **fields: object) -> StageGraph:
        return with_stage(graph, dataclasses.replace(graph[name], **fields))

    return change


@pytest.fixture
def brightness_of() -> Callable[[BrightnessConfig], RowStage]:
    return brightness_stage


@pytest.fixture
def brightness_config() -> type[BrightnessConfig]:
    return BrightnessConfig


def paint(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(path)


@pytest.fixture
def repaint() -> Callable[[Path, int], None]:
    return paint


@pytest.fixture
def photo_root(tmp_path: Path) -> Path:
    """Twelve evenly coloured PNGs of three people, brightness 20, 40, ... 240."""
    root = tmp_path / "photos"
    for index in range(12):
        paint(root / f"p{index // 4}" / f"{index % 4:02d}.png", 20 * (index + 1))
    return root


@pytest.fixture
def lake(tmp_path: Path, photo_root: Path, graph: StageGraph) -> Lake:
    """Three shards of four photographs, nothing computed."""
    lake = Lake.open(tmp_path / "lake", create=True)
    ingest(lake, photo_root, shard_size=4, consent=Consent.SYNTHETIC)
    graph.prepare(lake)
    return lake


@pytest.fixture
def run_all() -> Callable[..., dict[str, int]]:
    """Run stages over all shards; returns rows computed by stage."""
    from assets.artifacts import run_artifact
    from assets.runner import run_shard

    def run(lake: Lake, graph: StageGraph, *names: str, force: bool = False) -> dict[str, int]:
        computed: dict[str, int] = {}
        for stage in graph.stages:
            if names and stage.name not in names:
                continue
            if isinstance(stage, RowStage):
                shards = lake.table(stage.table).snapshot().shards()
                results = [
                    run_shard(lake, graph, stage, shard, device="cpu", force=force) for shard in shards
                ]
                assert all(result.accounts() for result in results)
                computed[stage.name] = sum(result.computed for result in results)
            elif isinstance(stage, ArtifactStage):
                computed[stage.name] = int(run_artifact(lake, graph, stage, device="cpu", force=force).made)
        return computed

    return run


@dataclasses.dataclass(frozen=True)
class Damage:
    """Writes to a lake behind its back. Its shards stay whole fragments."""

    lake: Lake

    def ids(self, shard: str = "shard-00001") -> list[str]:
        """Ids of a shard's photographs."""
        return self.lake.faces.snapshot().scan(["image_id"], shard=shard)["image_id"].to_pylist()

    def rewrite(self, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Write a whole table anew, changed."""
        uri = self.lake.table(table).uri
        rows = change(lance.dataset(uri).to_table())
        lance.write_dataset(
            rows, uri, mode="overwrite", data_storage_version="2.2", enable_stable_row_ids=True
        )

    @staticmethod
    def put(rows: pa.Table, column: str, key: str, values: dict[str, Any]) -> pa.Table:
        """The table with values of one column exchanged, by key."""
        place = rows.schema.get_field_index(column)
        old = zip(rows[key].to_pylist(), rows[column].to_pylist(), strict=True)
        new = [values.get(name, value) for name, value in old]
        return rows.set_column(place, rows.schema.field(place), pa.array(new, rows.schema.field(place).type))

    def values(self, column: str, change: Callable[[np.ndarray], np.ndarray], keys: list[str]) -> None:
        """Apply a function to one list column of some photographs."""

        def changed(rows: pa.Table) -> pa.Table:
            old = dict(zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True))
            new = {key: change(np.array(old[key])).ravel().tolist() for key in keys}
            return self.put(rows, column, "image_id", new)

        self.rewrite("faces", changed)

    def state(self, stage: str, keys: list[str], **parts: Any) -> None:
        """Overwrite parts of the state of some photographs."""

        def changed(rows: pa.Table) -> pa.Table:
            column = f"{stage}_state"
            old = dict(zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True))
            return self.put(rows, column, "image_id", {key: {**old[key], **parts} for key in keys})

        self.rewrite("faces", changed)


@pytest.fixture
def damage(lake: Lake) -> Damage:
    """What damages the test's own lake."""
    return Damage(lake)
