"""Tensor names and shapes that a published file must have, as data, and the comparison with a real file.

The tables are written by `python -m pipeline.weight_tables` from our networks on the meta device; a test
holds both equal. Reading them and a file's header needs no torch.
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from functools import cache
from importlib import resources
from pathlib import Path

from resources.weights.entries import WeightEntry
from resources.weights.errors import WeightError

Shapes = dict[str, tuple[int, ...]]

OPTIONAL = "num_batches_tracked"
"""Batch normalisation's training counters; older files have none, and results do not depend on them."""

NAMES_SHOWN = 3


@cache
def read_table(name: str) -> Shapes:
    """Shapes by tensor name. Raises KeyError when there is no such table."""
    file = resources.files("resources.weights").joinpath("tables", f"{name}.json")
    if not file.is_file():
        raise KeyError(f"no table {name} in resources/weights/tables")
    content = json.loads(file.read_text(encoding="utf-8"))
    return {key: tuple(shape) for key, shape in content.items()}


def write_table(folder: Path, name: str, shapes: Shapes) -> Path:
    """Write a table, one tensor per line, sorted."""
    path = folder / f"{name}.json"
    lines = [f"{json.dumps(key)}: {json.dumps(list(shapes[key]))}" for key in sorted(shapes)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def file_shapes(path: Path) -> Shapes:
    """Names and shapes in a safetensors file, from its header. Raises ValueError when it is cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or no safetensors file ({error})") from error


def check_table(entry: WeightEntry, path: Path) -> int:
    """Compare a role's file with its table, strictly; returns the number of tensors.

    Raises:
        WeightError: the file is damaged, or tensors are missing, unknown or of another shape.
    """
    remedy = f"orchard weights pull {entry.role} --again"
    file = next(iter(sorted(path.glob("*.safetensors")))) if path.is_dir() else path
    try:
        found = file_shapes(file)
    except ValueError as error:
        raise WeightError(entry.role, str(error), remedy) from error
    wanted = read_table(entry.table)
    found = {
        name: shape
        for name, shape in found.items()
        if name in wanted or not any(fnmatch(name, pattern) for pattern in entry.ignored)
    }
    missing = [name for name in wanted if name not in found and not name.endswith(OPTIONAL)]
    unknown = [name for name in found if name not in wanted]
    misshapen = [name for name in wanted if name in found and found[name] != wanted[name]]
    problems = [
        f"{len(names)} tensors {what}, such as {', '.join(names[:NAMES_SHOWN])}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise WeightError(entry.role, f"{file} has {'; '.join(problems)}: another network or version", remedy)
    return len(found)
