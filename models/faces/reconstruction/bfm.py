"""The morphable face model that turns coefficients into vertices: its arrays, their file and their checks.

3DDFA-V3 uses a cut of the Basel Face Model 2009 (Paysan et al.) with the expression basis of Guo et al. It is
licensed for research to people who register with its owners, so it is never shipped: the user supplies it,
converted from the published `face_model.npy` without pickle. Only the arrays below are kept, which is what
landmarks need; albedo, triangles and texture coordinates stay behind.

| array | shape | type | published as |
|---|---|---|---|
| `mean_shape` | (N, 3) | float32 | `u` (3N, 1) |
| `identity_basis` | (N, 3, 80) | float32 | `id` (3N, 80) |
| `expression_basis` | (N, 3, 64) | float32 | `exp` (3N, 64) |
| `landmarks_68` | (68,) | int32, vertices | `ldm68` |
| `landmarks_106` | (106,) | int32, vertices | `ldm106` |
| `landmarks_134` | (134,) | int32, vertices | `ldm134` |
| `profile_line` | (N,) | int32, 0..32 or -1 | `parallel`, 33 lists of vertices |

N is 35,709 in the published model. Model units: x to the right, y up, z to the camera; a face is about two
units high.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.faces.reconstruction.coefficients import EXPRESSION_SIZE, IDENTITY_SIZE

PROFILE_LINES: Final = 33
"""Lines of vertices across the cheeks, one for each contour point of the 106 landmarks (its first 33)."""

CHIN_LINE: Final = 16
"""The contour point at the chin, which is the same vertex in every pose and needs no line."""

NO_LINE: Final = -1


class FaceModelError(ValueError):
    """The arrays are no face model; the message names the array."""


@dataclass(frozen=True)
class FaceModel:
    """Arrays of a morphable face model; see the table in the module's description.

    Raises:
        FaceModelError: a shape or type is wrong, a value is not finite, an index is out of range, or a
            profile line has no vertex.
    """

    mean_shape: NDArray[np.float32]
    identity_basis: NDArray[np.float32]
    expression_basis: NDArray[np.float32]
    landmarks_68: NDArray[np.int32]
    landmarks_106: NDArray[np.int32]
    landmarks_134: NDArray[np.int32]
    profile_line: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = self.vertex_count if self.mean_shape.ndim else 0
        shapes = {
            "mean_shape": (count, 3),
            "identity_basis": (count, 3, IDENTITY_SIZE),
            "expression_basis": (count, 3, EXPRESSION_SIZE),
            "landmarks_68": (68,),
            "landmarks_106": (106,),
            "landmarks_134": (134,),
            "profile_line": (count,),
        }
        for name, shape in shapes.items():
            array: NDArray[np.generic] = getattr(self, name)
            kind = np.float32 if name.endswith(("shape", "basis")) else np.int32
            if array.shape != shape or array.dtype != kind:
                raise FaceModelError(
                    f"{name} must be {np.dtype(kind)} {shape}, got {array.dtype} {array.shape}"
                )
            if not np.isfinite(array).all():
                raise FaceModelError(f"{name} holds a value that is NaN or infinite")
            if name.startswith("landmarks") and (array.min() < 0 or array.max() >= count):
                raise FaceModelError(f"{name} names a vertex outside 0..{count - 1}")
        lines = set(np.unique(self.profile_line).tolist()) - {NO_LINE}
        if not lines <= set(range(PROFILE_LINES)):
            raise FaceModelError(f"profile_line must hold -1 or 0..{PROFILE_LINES - 1}, got {sorted(lines)}")
        empty = set(range(PROFILE_LINES)) - {CHIN_LINE} - lines
        if empty:
            raise FaceModelError(f"profile_line has no vertex on the lines {sorted(empty)}")

    @property
    def vertex_count(self) -> int:
        """N."""
        return len(self.mean_shape)

    @classmethod
    def from_published(cls, published: Mapping[str, Any]) -> Self:
        """Arrays of the published dictionary (`face_model.npy`, unpacked by the caller).

        Where a vertex stands on two profile lines, the later line has it, as in 3DDFA-V3.

        Raises:
            FaceModelError: a key is missing or an array does not fit.
        """
        needed = ("u", "id", "exp", "ldm68", "ldm106", "ldm134", "parallel")
        missing = [key for key in needed if key not in published]
        if missing:
            raise FaceModelError(f"the face model has no {', '.join(missing)}; is it 3DDFA-V3's?")
        mean = np.asarray(published["u"], np.float32)
        if mean.size % 3:
            raise FaceModelError(f"u must hold x, y and z of every vertex, got {mean.size} numbers")
        count = mean.size // 3
        lines = published["parallel"]
        if len(lines) != PROFILE_LINES:
            raise FaceModelError(f"parallel must hold {PROFILE_LINES} lists of vertices, got {len(lines)}")
        profile_line = np.full(count, NO_LINE, np.int32)
        for line, vertices in enumerate(lines):
            indices = np.asarray(vertices, np.int64)
            if indices.size and (indices.min() < 0 or indices.max() >= count):
                raise FaceModelError(f"parallel line {line} names a vertex outside 0..{count - 1}")
            profile_line[indices] = line

        def basis(key: str, columns: int) -> NDArray[np.float32]:
            array = np.asarray(published[key], np.float32)
            if array.shape != (3 * count, columns):
                raise FaceModelError(f"{key} must have shape {(3 * count, columns)}, got {array.shape}")
            return array.reshape(count, 3, columns)

        return cls(
            mean_shape=mean.reshape(count, 3),
            identity_basis=basis("id", IDENTITY_SIZE),
            expression_basis=basis("exp", EXPRESSION_SIZE),
            landmarks_68=np.asarray(published["ldm68"], np.int32).ravel(),
            landmarks_106=np.asarray(published["ldm106"], np.int32).ravel(),
            landmarks_134=np.asarray(published["ldm134"], np.int32).ravel(),
            profile_line=profile_line,
        )

    def save(self, path: str | Path) -> None:
        """Write the arrays to a safetensors file."""
        save_file(
            {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}, path
        )


def load_face_model(path: str | Path) -> FaceModel:
    """Read a face model from a `.safetensors` or `.npz` file; nothing is ever unpickled.

    The arrays may have our names, or those of the published dictionary with its lists of vertices taken
    apart (`parallel.0` to `parallel.32`), as `orchard weights` converts it; what is not needed is passed
    over then.

    Raises:
        FileNotFoundError: there is no such file.
        FaceModelError: the file is unreadable, holds pickled objects, or its arrays are no face model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no face model at {path}; it is licensed to you, not shipped")
    try:
        arrays: dict[str, Any] = _npz(path) if path.suffix == ".npz" else load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise FaceModelError(
            f"{path} is no readable face model: {error}. A pickled face_model.npy must be converted first"
        ) from error
    try:
        if "u" in arrays:
            return FaceModel.from_published(_with_lines(arrays))
        names = {field.name for field in fields(FaceModel)}
        if arrays.keys() != names:
            missing, unknown = sorted(names - arrays.keys()), sorted(arrays.keys() - names)
            raise FaceModelError(f"missing arrays {missing}, unknown arrays {unknown}")
        return FaceModel(**arrays)
    except FaceModelError as error:
        raise FaceModelError(f"{path}: {error}") from error


def _with_lines(arrays: dict[str, Any]) -> dict[str, Any]:
    """The published dictionary with its profile lines put together again."""
    lines = [arrays[name] for line in range(PROFILE_LINES) if (name := f"parallel.{line}") in arrays]
    return arrays | {"parallel": lines} if lines else arrays


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        return {name: file[name] for name in file.files}


def synthetic_face_model(seed: int, vertices: int = 600) -> FaceModel:
    """A made-up face model of the right shapes: half an ellipsoid with smooth random bases.

    It stands in for the licensed model wherever geometry is to be shown to be right; it resembles nobody.

    Args:
        seed: the same seed gives the same model.
        vertices: N, at least 200.

    Raises:
        ValueError: too few vertices.
    """
    if vertices < 200:
        raise ValueError(f"a synthetic face model needs at least 200 vertices, got {vertices}")
    random = np.random.default_rng(seed)
    x, y = random.uniform(-1, 1, (2, vertices)) * 0.7
    depth = np.sqrt(1 - x**2 - y**2 * 0.9)
    mean_shape = np.stack([x * 0.9, y * 1.2, depth * 0.8], axis=1)
    ones = np.ones(vertices)
    moments_V6 = np.stack([ones, x, y, x * y, x**2, y**2], axis=1)

    def basis(columns: int) -> NDArray[np.float32]:
        weights = random.normal(0, 0.01, (6, 3, columns))
        return np.einsum("vm,mcb->vcb", moments_V6, weights).astype(np.float32)

    # Lines lie one below the other, those of the first sixteen points on the left half of the picture.
    profile_line = np.full(vertices, NO_LINE, np.int32)
    for side, first in ((-1, 0), (1, CHIN_LINE + 1)):
        outer = np.flatnonzero(x * side > 0.2)
        order = outer[np.argsort(-y[outer])]
        for step, group in enumerate(np.array_split(order, CHIN_LINE)):
            profile_line[group] = first + (step if side < 0 else CHIN_LINE - 1 - step)
    return FaceModel(
        mean_shape=mean_shape.astype(np.float32),
        identity_basis=basis(IDENTITY_SIZE),
        expression_basis=basis(EXPRESSION_SIZE),
        landmarks_68=random.choice(vertices, 68, replace=False).astype(np.int32),
        landmarks_106=random.choice(vertices, 106, replace=False).astype(np.int32),
        landmarks_134=random.choice(vertices, 134, replace=False).astype(np.int32),
        profile_line=profile_line,
    )
