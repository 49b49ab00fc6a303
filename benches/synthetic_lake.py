"""A lake of any size for the benches: real tables, column groups and fingerprints, without photographs.

400 shards x 12 row stages x 3,750 rows are made in a quarter of a minute, since nothing is computed. With
`photographs` every row also names a real file, so that an ingest finds all of them unchanged.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import cv2
import lance
import numpy as np
import pyarrow as pa
from lance import LanceOperation
from lance.file import LanceFileWriter
from lance.fragment import DataFile

from assets.stage import ArtifactStage, Input, NoConfig, Row, RowModel, RowStage, StageContext, StageGraph
from resources.lake.digest import combine_fingerprints, digest_bytes
from resources.lake.ingest import INGEST_CODE_VERSION
from resources.lake.lake import Artifact, Lake
from resources.lake.schema import (
    DIGEST_BYTES,
    FACES_SCHEMA,
    FACES_STAGE,
    LAKE_FORMAT,
    STATE_TYPE,
    TRIPLETS_SCHEMA,
    Column,
    Status,
    state_column,
)
from resources.lake.table import LakeTable

UPSTREAM = {
    "landmarks": ("faces",),
    "iris": ("faces", "landmarks"),
    "masks": ("faces", "landmarks"),
    "head_pose": ("landmarks",),
    "expression": ("faces", "landmarks"),
    "aesthetics": ("faces", "landmarks"),
    "occlusion": ("faces", "masks"),
    "lighting": ("faces", "masks"),
    "identity_embedding": ("faces", "landmarks"),
    "condition": ("faces", "landmarks", "iris", "masks"),
    "latents": ("faces", "condition"),
    "quality": ("aesthetics", "occlusion", "lighting"),
}
"""Twelve row stages and what they depend on: one to four inputs, five levels deep, as in a real DAG."""

RELEASE_INPUTS = ("aesthetics", "identity_embedding", "latents")

PAIR_INPUTS = (
    Input("identity_embedding", ("identity_embedding",), via="source_image_id"),
    Input("latents", ("latents",), via="target_image_id"),
)
"""What the stage `swapped` of the triplets' table reads of two photographs."""

PER_IDENTITY = 20
"""Photographs of one person, and so files in one folder."""

MODIFIED_NS = 1_700_000_000_000_000_000
"""Modification time of every photograph, in nanoseconds."""


def synthetic_graph(
    code_versions: dict[str, str] | None = None, release: bool = False, pairs: bool = False
) -> StageGraph:
    """Twelve row stages over photographs.

    With `release` there is an artifact over three of them, with `pairs` a stage over pairs of photographs.
    """
    stages = [_row_stage(name, (code_versions or {}).get(name, "1")) for name in UPSTREAM]
    return StageGraph((*stages, *([_release()] if release else []), *([_pair_stage()] if pairs else [])))


def _row_stage(name: str, code_version: str) -> RowStage:
    def load(context: StageContext) -> RowModel:
        return lambda rows: [{name: _brightness(row) % 100} for row in rows]

    return RowStage(
        name=name,
        code_version=code_version,
        description="Synthetic: mean brightness of the photograph, or the sum of what lies upstream.",
        config=NoConfig(),
        inputs=tuple(Input(item, ("image" if item == FACES_STAGE else item,)) for item in UPSTREAM[name]),
        outputs=(Column(name, pa.int16()),),
        load=load,
    )


def _brightness(row: Row) -> int:
    return sum(int(np.mean(value)) for name, value in sorted(row.items()) if name != "image_id")


def _release() -> ArtifactStage:
    def build(context: StageContext, fingerprint: bytes) -> Artifact:
        return Artifact("release", fingerprint, digest_bytes(fingerprint), "1")

    return ArtifactStage(
        name="release",
        code_version="1",
        description="Synthetic.",
        config=NoConfig(),
        inputs=tuple(Input(item) for item in RELEASE_INPUTS),
        build=build,
    )


def _pair_stage() -> RowStage:
    def load(context: StageContext) -> RowModel:
        raise RuntimeError("synthetic pairs are planned, never run")

    return RowStage(
        name="swapped",
        code_version="1",
        table="triplets",
        description="Synthetic.",
        config=NoConfig(),
        inputs=PAIR_INPUTS,
        outputs=(Column("swapped", pa.int16()),),
        load=load,
    )


def photo_bytes(brightness: int) -> bytes:
    """A PNG of 64 x 64 pixels of one grey, some two hundred bytes long. `brightness` is 0 to 255."""
    return cv2.imencode(".png", np.full((64, 64, 3), brightness, np.uint8))[1].tobytes()


def build_photographs(folder: Path, count: int) -> None:
    """As many small files as the lake has rows, twenty to a folder, all with one modification time."""
    data = photo_bytes(90)
    for index in range(count):
        person, photo = divmod(index, PER_IDENTITY)
        place = f"{folder}/p{person:06d}"
        if photo == 0:
            os.makedirs(place)
        handle = os.open(f"{place}/{photo:02d}.png", os.O_WRONLY | os.O_CREAT)
        os.write(handle, data)
        os.utime(handle, ns=(MODIFIED_NS, MODIFIED_NS))
        os.close(handle)


def build_lake(folder: Path, shards: int, rows_per_shard: int, photographs: Path | None = None) -> Lake:
    """A lake in which every row of every stage is ok and fresh, in the layout that real runs leave.

    With `photographs` its rows are those that an ingest of `build_photographs` there would have recorded.
    """
    lake = Lake.open(folder, create=True)
    graph = synthetic_graph()
    random = np.random.default_rng(0)
    count = shards * rows_per_shard
    digests = {FACES_STAGE: _random_digests(random, count)}
    base = _base_rows(shards, rows_per_shard, digests[FACES_STAGE], photographs or Path("/photos"))
    _append(lake.faces, base, rows_per_shard)
    graph.prepare(lake)
    for stage in graph.row_stages():
        digests[stage.name] = _random_digests(random, count)
        upstream = [digests[item.stage] for item in stage.inputs]
        _commit_stage(lake.faces, stage, upstream, digests[stage.name], rows_per_shard)
    return lake


def add_pairs(lake: Lake, shards: int, rows_per_shard: int) -> None:
    """Triplets of random photographs, with one stage that is ok and fresh."""
    graph = synthetic_graph(pairs=True)
    random = np.random.default_rng(1)
    names = ["image_id", *(f"{state_column(item.stage)}.digest" for item in PAIR_INPUTS)]
    faces = lake.faces.snapshot().scan(names)
    count = shards * rows_per_shard
    sources, targets = (pa.array(random.integers(0, faces.num_rows, count)) for _ in range(2))
    columns = {
        "pair_id": pa.array([f"pair{index:08d}" for index in range(count)]),
        "shard": pa.array([f"triplets-{index // rows_per_shard:05d}" for index in range(count)]),
        "source_image_id": faces["image_id"].take(sources).combine_chunks(),
        "target_image_id": faces["image_id"].take(targets).combine_chunks(),
    }
    arrays = [columns[field.name] for field in TRIPLETS_SCHEMA]
    _append(lake.triplets, pa.table(arrays, schema=TRIPLETS_SCHEMA), rows_per_shard)
    graph.prepare(lake)
    upstream = [
        faces[name].take(places).combine_chunks()
        for name, places in zip(names[1:], (sources, targets), strict=True)
    ]
    for stage in graph.row_stages("triplets"):
        _commit_stage(lake.triplets, stage, upstream, _random_digests(random, count), rows_per_shard)


def change_one_row(lake: Lake, place: int = 123) -> None:
    """Replace one photograph, as the ingest does: its row moves to a fragment of its own."""
    row = lake.faces.snapshot().dataset.scanner(columns=FACES_SCHEMA.names, limit=1, offset=place).to_table()
    values = row.to_pylist()[0]
    digest = digest_bytes(uuid.uuid4().bytes)
    values[state_column(FACES_STAGE)] |= {"digest": digest, "fingerprint": digest}
    lake.faces.replace(pa.Table.from_pylist([values], schema=FACES_SCHEMA))


def _append(table: LakeTable, rows: pa.Table, rows_per_shard: int) -> None:
    lance.write_dataset(
        rows, table.uri, mode="append", max_rows_per_file=rows_per_shard, max_rows_per_group=rows_per_shard
    )


def _random_digests(random: np.random.Generator, count: int) -> pa.Array:
    data = pa.py_buffer(random.bytes(count * DIGEST_BYTES))
    return pa.Array.from_buffers(pa.binary(DIGEST_BYTES), count, [None, data])


def _states(fingerprints: pa.Array, digests: pa.Array, code_version: str) -> pa.StructArray:
    count = len(digests)
    columns = {
        "fingerprint": fingerprints,
        "digest": digests,
        "status": pa.repeat(Status.OK.value, count),
        "reason": pa.nulls(count, pa.string()),
        "detail": pa.nulls(count, pa.string()),
        "attempt": pa.repeat(pa.scalar(1, pa.int16()), count),
        "code_version": pa.repeat(code_version, count),
    }
    return pa.StructArray.from_arrays(list(columns.values()), fields=list(STATE_TYPE))


def _base_rows(shards: int, rows_per_shard: int, digests: pa.Array, photographs: Path) -> pa.Table:
    count = shards * rows_per_shard
    keys = [f"p{index // PER_IDENTITY:06d}/{index % PER_IDENTITY:02d}" for index in range(count)]
    columns: dict[str, pa.Array] = {
        "image_id": pa.array(keys),
        "identity": pa.array([key[:7] for key in keys]),
        "shard": pa.array([f"shard-{index // rows_per_shard:05d}" for index in range(count)]),
        "image_sha256": pa.array([digest.hex() * 2 for digest in digests.to_pylist()]),
        "source": pa.array([f"{photographs.resolve()}/{key}.png" for key in keys]),
        "source_size": pa.repeat(pa.scalar(len(photo_bytes(90)), pa.int64()), count),
        "source_mtime_ns": pa.repeat(pa.scalar(MODIFIED_NS, pa.int64()), count),
        "consent": pa.repeat("synthetic", count),
        state_column(FACES_STAGE): _states(digests.cast(pa.binary()), digests, INGEST_CODE_VERSION),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in FACES_SCHEMA]
    return pa.table(arrays, schema=FACES_SCHEMA)


def _commit_stage(
    table: LakeTable, stage: RowStage, upstream: Sequence[pa.Array], digests: pa.Array, rows_per_shard: int
) -> None:
    """One column group of all fragments in one commit: the files of 400 commits, without their time."""
    state = _states(combine_fingerprints(stage.prefix, upstream), digests, stage.code_version)
    values = pa.array(np.arange(len(digests), dtype=np.int64) % 100, pa.int16())
    group = pa.table([values, state], schema=pa.schema(stage.group_fields))
    snapshot = table.snapshot()
    fields = {field.name(): field for field in snapshot.dataset.lance_schema.fields()}
    leaves = [leaf.id() for name in group.schema.names for leaf in fields[name].children() or [fields[name]]]
    major, minor = (int(part) for part in LAKE_FORMAT.split("."))
    groups = []
    for place, fragment in enumerate(snapshot.dataset.get_fragments()):
        name = f"{uuid.uuid4().hex}.lance"
        with LanceFileWriter(f"{table.uri}/data/{name}", schema=group.schema, version=LAKE_FORMAT) as writer:
            for batch in group.slice(place * rows_per_shard, rows_per_shard).combine_chunks().to_batches():
                writer.write_batch(batch)
        data_file = DataFile(name, leaves, list(range(len(leaves))), major, minor, None)
        groups.append(LanceOperation.DataReplacementGroup(fragment.fragment_id, data_file))
    transaction = lance.Transaction(
        read_version=snapshot.version, operation=LanceOperation.DataReplacement(groups)
    )
    lance.LanceDataset.commit(table.uri, transaction)
