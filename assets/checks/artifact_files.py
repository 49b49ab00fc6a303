"""`artifact_complete`: what a release, checkpoint or evaluation names is there, whole, and finite."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.checks.findings import Finding
from resources.lake.errors import LakeError
from resources.lake.lake import Artifact, Lake
from resources.lake.recipes import base_name, of_recipe, recipe_of
from resources.lake.schema import FACES_STAGE, FRONTIERS


def artifact_complete(lake: Lake, stage: str) -> Finding:
    """Read everything that the current artifact of a stage names.

    A list must be readable and hold as many rows as the release says, a tag must pin the version it was made
    from, a checkpoint's weights must be those of its manifest and finite, figures must be finite and
    intervals in order.
    """
    artifact = lake.current_artifact(stage)
    if artifact is None:
        return Finding(False, f"{stage} was never made: `orchard run {stage}` makes it.")
    figures: dict[str, Any] = {"digest": artifact.digest.hex(), "location": artifact.location or ""}
    faults = [*_bad_numbers(artifact.metadata), *_bad_tag(lake, artifact)]
    if artifact.location is not None:
        faults += _bad_files(lake, artifact, artifact.location)
    losses = artifact.metadata.get("losses")
    if losses and not lake.storage.exists(losses):
        faults.append(f"the loss curve {losses} is gone")
    measured, bad = _intervals(lake, artifact)
    faults += bad
    figures |= {"metrics": measured} if measured else {}
    if not faults:
        return Finding(True, f"all that {stage} names is there and whole", figures)
    return Finding(
        passed=False,
        message=f"{stage} is not whole: {'; '.join(faults)}. What is made from it would be wrong; "
        f"`orchard run {stage} --force` makes it anew.",
        metadata={**figures, "faults": faults},
    )


def _bad_numbers(metadata: Any, path: str = "") -> Iterator[str]:
    """Numbers in an artifact's metadata that are not finite."""
    if isinstance(metadata, Mapping):
        for name, value in metadata.items():
            yield from _bad_numbers(value, f"{path}.{name}" if path else str(name))
    elif isinstance(metadata, float) and not math.isfinite(metadata):
        yield f"{path} is {metadata}"


def _bad_tag(lake: Lake, artifact: Artifact) -> Iterator[str]:
    tag, version = artifact.metadata.get("tag"), artifact.metadata.get("version")
    if tag is None:
        return
    found = [
        tags[tag]["version"]
        for name in (FACES_STAGE, of_recipe("triplets", recipe_of(artifact.stage)))
        if tag in (tags := lake.table(name).snapshot().dataset.tags.list())
    ]
    if not found:
        yield f"the tag {tag} is gone"
    elif version not in found:
        yield f"the tag {tag} pins version {found[0]}, it was made from {version}"


def _bad_files(lake: Lake, artifact: Artifact, location: str) -> Iterator[str]:
    """A list or a checkpoint; from an object store it is fetched first."""
    try:
        path = lake.fetch(location)
    except LakeError as error:
        yield str(error)
        return
    yield from (
        _bad_list(lake, artifact, path) if path.suffix == ".parquet" else _bad_checkpoint(artifact, path)
    )


def _bad_list(lake: Lake, artifact: Artifact, path: Path) -> Iterator[str]:
    """A release's list: readable, and with what was left out it is all rows of the pinned version."""
    try:
        listed = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield f"{artifact.location} cannot be read ({str(error).splitlines()[0]})"
        return
    if artifact.location is not None and artifact.location.startswith(f"{FRONTIERS}/"):
        told = artifact.metadata.get("rows")
        if listed.num_rows != told:
            yield f"{artifact.location} holds {listed.num_rows} rows, the frontier says {told}"
        return
    if "pair_id" in listed.column_names:
        yield from _bad_triplet_list(artifact, listed.num_rows)
        return
    uses = listed["use"].to_pylist()
    told = artifact.metadata.get("training_rows")
    if uses.count("train") != told:
        yield f"{artifact.location} lists {uses.count('train')} rows to train on, the release says {told}"
    excluded = sum(artifact.metadata.get("excluded", {}).values())
    try:
        photographs = lake.faces.snapshot(artifact.metadata.get("tag")).count()
    except LakeError:
        return  # the missing tag is told already
    if len(uses) + excluded != photographs:
        yield (
            f"{len(uses)} listed and {excluded} excluded rows are not the {photographs} photographs of "
            "the pinned version"
        )


def _bad_triplet_list(artifact: Artifact, listed: int) -> Iterator[str]:
    """Released triplets and those left out are all rows there were."""
    told, rows = artifact.metadata.get("triplets"), artifact.metadata.get("rows")
    left_out = sum(artifact.metadata.get("left_out", {}).values())
    if listed != told:
        yield f"{artifact.location} lists {listed} triplets, the release says {told}"
    elif listed + left_out != rows:
        yield f"{listed} listed and {left_out} left out triplets are not the {rows} of the pinned version"


def _bad_checkpoint(artifact: Artifact, folder: Path) -> Iterator[str]:
    """Manifest, SHA-256 of the weights, digest of the whole, and every tensor finite."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        wanted = manifest["weights_sha256"]
    except (OSError, ValueError, KeyError) as error:
        yield f"{artifact.location} has no readable manifest ({type(error).__name__}: {error})"
        return
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    if hashlib.sha256(content).digest()[: len(artifact.digest)] != artifact.digest:
        yield f"the manifest of {artifact.location} is not the one that was registered"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        yield f"{artifact.location} holds no weights"
    for path in files:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != wanted:
            yield f"{path.name} of {artifact.location} has another SHA-256 than its manifest names"
        else:
            yield from (f"{path.name} of {artifact.location}: {text}" for text in _bad_tensors(path))


def _bad_tensors(path: Path) -> Iterator[str]:
    """Tensors of a safetensors file that hold NaN or infinity."""
    import torch  # seconds to load, and only checkpoints need it
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 -- not a mapping, it only has this method
            if not torch.isfinite(file.get_tensor(name)).all():
                yield f"the tensor {name} is not finite"


def _intervals(lake: Lake, artifact: Artifact) -> tuple[int, list[str]]:
    """How many metrics an evaluation has in its table, and which of them cannot be."""
    if base_name(artifact.stage) != "evaluation":
        return 0, []
    condition = f"evaluation = '{artifact.digest.hex()}'"
    rows = lake.evaluations.snapshot().dataset.to_table(filter=condition).to_pylist()
    bad = [
        f"{row['method']} {row['metric']} is {row['mean']} within [{row['low']}, {row['high']}]"
        for row in rows
        if not (
            all(math.isfinite(row[name]) for name in ("mean", "low", "high"))
            and row["low"] <= row["mean"] <= row["high"]
            and row["count"] > 0
        )
    ]
    if artifact.metadata.get("pairs") and not rows:
        bad.append("its metrics are missing from the table evaluations")
    return len(rows), bad
