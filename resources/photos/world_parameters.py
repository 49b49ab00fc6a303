"""The parameters behind a rendered world's exact answers, read from its `world.json` as plain numbers.

A folder of rendered portraits says who is in every photograph and how it was taken. With these numbers beside
a pair of swaps, an evaluation can render the answer again, and other people in the very same light.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

WORLD_FILE = "world.json"


class WorldFileError(ValueError):
    """A `world.json` is damaged; the message names it."""


class PairParameters(BaseModel):
    """What the exact answer of one pair was rendered from: rows of the world's parameter tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    world_version: str
    source_identity: tuple[float, ...]
    target_identity: tuple[float, ...]
    attributes: tuple[float, ...]


class _Answer(BaseModel):
    source: str
    target: str
    truth: str


class _World(BaseModel):
    world_version: str
    identities: dict[str, tuple[float, ...]]
    photos: dict[str, tuple[float, ...]]
    swap_pairs: tuple[_Answer, ...]


def read_world_parameters(folder: Path) -> dict[tuple[str, str, Path | None], str]:
    """Parameters of every exact answer in a folder, as JSON of `PairParameters`.

    Keys are (source image id, target image id, path of the answer, None where none is written). Empty where
    there is no `world.json`.

    Raises WorldFileError when the file is damaged.
    """
    path = folder / WORLD_FILE
    if not path.is_file():
        return {}
    try:
        world = _World.model_validate_json(path.read_bytes())
        return {
            (pair.source, pair.target, folder / pair.truth if pair.truth else None): json.dumps(
                _parameters(world, pair).model_dump(mode="json"), sort_keys=True, separators=(",", ":")
            )
            for pair in world.swap_pairs
        }
    except (ValidationError, KeyError) as error:
        raise WorldFileError(
            f"{path} is damaged: {error}. Write the portraits to a new folder, or take the file away and do "
            "without the metrics that render the answer again"
        ) from error


def _parameters(world: _World, pair: _Answer) -> PairParameters:
    source, target = (image_id.split("/", maxsplit=1)[0] for image_id in (pair.source, pair.target))
    return PairParameters(
        world_version=world.world_version,
        source_identity=world.identities[source],
        target_identity=world.identities[target],
        attributes=world.photos[pair.target],
    )
