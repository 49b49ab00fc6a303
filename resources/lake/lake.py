"""The lake under one URI: its tables, its checkpoint store, and the register of finished artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from resources.lake import schema
from resources.lake.errors import LakeDamaged, LakeError, clear_storage_errors
from resources.lake.recipes import RECIPE_TABLES, base_name, of_recipe, require_name
from resources.lake.remote import download, upload, working_root
from resources.lake.storage import S3, Storage
from resources.lake.table import LakeTable
from resources.lake.upgrade import BASE_SCHEMAS, bring_up_to_date

__all__ = ["Artifact", "Lake", "LakeError"]


TABLE_KEYS = {
    "faces": "image_id",
    "source_roots": "path",
    "swap_pairs": "pair_id",
    "triplets": "pair_id",
    "swaps": "pair_id",
    "diffface_swaps": "pair_id",
    "artifacts": "stage",
    "evaluations": "evaluation",
    "removals": "sha256",
    "tainted": "digest",
    "recipes": "recipe",
}
"""Every table of the lake and its key column; of `RECIPE_TABLES`, every recipe has some of its own."""


UNFINISHED = "unfinished"
"""Recipe of an announcement; see `Lake.announce_artifact`."""


@dataclass(frozen=True)
class Artifact:
    """One finished artifact: a release, a checkpoint or an evaluation.

    `fingerprint` says what it was made from, `digest` what it is; `location` is relative to the lake.
    """

    stage: str
    fingerprint: bytes
    digest: bytes
    code_version: str
    location: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "default"


@dataclass(frozen=True)
class Lake:
    """All tables under `uri`. Holds no open file: every read pins a version of its own."""

    uri: str
    storage_options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def open(cls, uri: str | Path, *, create: bool = False) -> Lake:
        """Open the lake at a path or URI.

        A lake of an older Orchard gets the tables and columns it lacks. Raises LakeError when there is no
        lake and `create` is False, when it cannot be brought up to date, or when it is damaged.
        """
        text = str(uri)
        lake = cls.locate(uri)
        if create:
            with clear_storage_errors(lake.uri):
                lake._create()
        elif not lake.faces.exists():
            with clear_storage_errors(lake.uri):  # a store that cannot be reached is not one without a lake
                damaged = lake.storage.exists("faces.lance")
            if damaged:
                raise LakeDamaged(
                    f"{lake.faces.uri} cannot be opened; `orchard repair --lake {text}` mends it"
                )
            raise LakeError(
                f"no lake at {lake.uri}. Make one with `orchard ingest PATH --lake {text}`, "
                "or name another with --lake or ORCHARD_LAKE."
            )
        bring_up_to_date(lake)
        return lake

    @classmethod
    def locate(cls, uri: str | Path) -> Lake:
        """The lake at a path or URI without a look whether it is there and sound."""
        text = str(uri)
        if "://" in text and not text.startswith(S3):
            raise LakeError(f"{text}: a lake is a folder or an s3:// URI; nothing else is supported")
        return cls(text.rstrip("/") if "://" in text else str(Path(text).expanduser().resolve()))

    def _create(self) -> None:
        if self.is_local:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        self.faces.create(schema.FACES_SCHEMA)
        self.source_roots.create(schema.SOURCE_ROOTS_SCHEMA)
        self.swap_pairs.create(schema.SWAP_PAIRS_SCHEMA)
        self.triplets.create(schema.TRIPLETS_SCHEMA)
        self.swaps.create(schema.SWAPS_SCHEMA)
        self.diffface_swaps.create(schema.DIFFFACE_SWAPS_SCHEMA)
        self.artifacts.create(schema.ARTIFACTS_SCHEMA)
        self.evaluations.create(schema.EVALUATIONS_SCHEMA)
        self.recipe_list.create(schema.RECIPES_SCHEMA)

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.uri

    def table(self, name: str) -> LakeTable:
        """The table with this name ("faces", "triplets", "swaps@inpainting", ...)."""
        key = TABLE_KEYS[base_name(name)]
        return LakeTable(f"{self.uri}/{name}.lance", key, self.storage_options)

    def table_names(self) -> list[str]:
        """Every table that this lake may have, those of its recipes among them."""
        own = [of_recipe(table, recipe) for recipe in self.recipes() for table in RECIPE_TABLES]
        return [*TABLE_KEYS, *own]

    @property
    def recipe_list(self) -> LakeTable:
        """Recipes besides the default one."""
        return self.table("recipes")

    def recipes(self) -> list[str]:
        """Recipes besides the default one that were started in this lake, sorted."""
        if not self.recipe_list.exists():
            return []
        # two processes that start one at once name it twice
        return sorted(set(self.recipe_list.snapshot().dataset.to_table()["recipe"].to_pylist()))

    def add_recipe(self, recipe: str) -> bool:
        """Give a recipe tables of its own; False if it had them. LakeError for a name that cannot be one."""
        require_name(recipe)
        if recipe in self.recipes():
            return False
        for table in RECIPE_TABLES:
            own = self.table(of_recipe(table, recipe))
            if not own.exists():
                own.create(BASE_SCHEMAS[table])
        # named last: what is in the list has its tables, whatever kills this
        self.recipe_list.append(pa.table({"recipe": [recipe]}, schema=schema.RECIPES_SCHEMA))
        return True

    @property
    def faces(self) -> LakeTable:
        """One row per photograph."""
        return self.table("faces")

    @property
    def source_roots(self) -> LakeTable:
        """Folders that were ingested."""
        return self.table("source_roots")

    @property
    def swap_pairs(self) -> LakeTable:
        """The pinned list of pairs to swap."""
        return self.table("swap_pairs")

    @property
    def triplets(self) -> LakeTable:
        """One row per pseudo triplet."""
        return self.table("triplets")

    @property
    def swaps(self) -> LakeTable:
        """One row per pair and method."""
        return self.table("swaps")

    @property
    def diffface_swaps(self) -> LakeTable:
        """One row per pair."""
        return self.table("diffface_swaps")

    @property
    def artifacts(self) -> LakeTable:
        """Append-only register of finished artifacts."""
        return self.table("artifacts")

    @property
    def evaluations(self) -> LakeTable:
        """Metrics of every evaluation."""
        return self.table("evaluations")

    @property
    def storage(self) -> Storage:
        """The files of the lake, those of its tables among them."""
        return Storage.at(self.uri)

    @property
    def working_root(self) -> Path:
        """Where files of the lake are made: in itself, or in a folder of this machine for an object store."""
        return Path(self.uri) if self.is_local else working_root(self.uri)

    def folder(self, *parts: str) -> Path:
        """A folder of this machine in which files of the lake are made, created; see `publish`."""
        path = self.working_root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, path: Path) -> str:
        """Put a finished file or folder, made under `folder()`, into the lake; returns its location there."""
        location = path.relative_to(self.working_root).as_posix()
        if not self.is_local:
            upload(self.storage, path, location)
        return location

    def fetch(self, location: str) -> Path:
        """A published file or folder as a path of this machine.

        Raises LakeError when an object store does not have it whole; a local path is not looked at.
        """
        path = self.working_root / location
        return path if self.is_local else download(self.storage, location, path)

    def current_artifact(self, stage: str, recipe: str = "default") -> Artifact | None:
        """The newest artifact of a stage and recipe, or None when it was never made."""
        rows = self.artifacts.snapshot().dataset.to_table(filter=f"stage = '{stage}'").to_pylist()
        rows = [row for row in rows if row["recipe"] == recipe]
        if not rows:
            return None
        newest = max(rows, key=lambda row: row["sequence"])
        return Artifact(
            stage=stage,
            fingerprint=newest["fingerprint"],
            digest=newest["digest"],
            code_version=newest["code_version"],
            location=newest["location"],
            metadata=json.loads(newest["metadata"]),
            recipe=recipe,
        )

    def announce_artifact(self, artifact: Artifact) -> None:
        """Record that an artifact's building has begun to change tables.

        Until a finished one is recorded, `is_unfinished` is true: a kill in between leaves tables that belong
        to no artifact, even when its inputs become again what they were for the one before.
        """
        if not self.is_unfinished(artifact.stage):
            self.record_artifact(replace(artifact, recipe=UNFINISHED))

    def is_unfinished(self, stage: str) -> bool:
        """Whether the newest thing known of an artifact stage is that its building had begun."""
        rows = self.artifacts.snapshot().dataset.to_table(
            columns=["sequence", "recipe"], filter=f"stage = '{stage}'"
        )
        newest = max(rows.to_pylist(), key=lambda row: row["sequence"], default=None)
        return newest is not None and newest["recipe"] == UNFINISHED

    def record_artifact(self, artifact: Artifact) -> None:
        """Append an artifact to the register; from then on it is the current one."""
        snapshot = self.artifacts.snapshot()
        sequences = snapshot.dataset.to_table(columns=["sequence"])["sequence"].to_pylist()
        row = {
            "stage": artifact.stage,
            "recipe": artifact.recipe,
            "sequence": max(sequences, default=0) + 1,
            "fingerprint": artifact.fingerprint,
            "digest": artifact.digest,
            "code_version": artifact.code_version,
            "location": artifact.location,
            "metadata": json.dumps(dict(artifact.metadata), sort_keys=True),
        }
        self.artifacts.append(pa.Table.from_pylist([row], schema=schema.ARTIFACTS_SCHEMA))
