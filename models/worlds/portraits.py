"""Portraits on disk: photographs as any user has them, with the exact truth of some swaps beside them.

    root/photos/<identity>/<stem>.jpg      photographs; an image id is `<identity>/<stem>`
    root/truth/<source identity>__<target identity>_<target stem>.png
                                           the source identity with the target photograph's attributes
    root/swap_pairs.csv                    source,target,truth (image ids, and a path relative to this file)
                                           and use, where swaps for training are among them: their truths are
                                           not written, as parameters tell them
    root/world.json                        world version, seed and the parameters of every photograph

A file that exists is never written again: a second call completes a folder and changes nothing that is there,
so a photograph that a user has replaced stays replaced, and its truths still show the world's own photograph.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.worlds.parameters import ATTRIBUTE_NAMES, IDENTITY_NAMES, Attributes, Identities
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import WORLD_VERSION, render

Item = TypeVar("Item")
JPEG_QUALITY = 95
_BATCH = 32
_PAIR_STREAM = 4
_TRAIN_PAIR_STREAM = 5


class SwapPair(BaseModel):
    """One swap with known truth."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="Image id of the photograph that gives the identity.")
    target: str = Field(description="Image id of the photograph that gives everything else.")
    truth: str = Field(
        description="Path of the exact result, relative to the folder's root; empty where it is not written."
    )
    use: Literal["evaluation", "training"] = Field(
        default="evaluation", description="What the pair is for; people of the one are not of the other."
    )


class WorldFile(BaseModel):
    """The content of `world.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    world_version: str = Field(description="Version of the renderer that made the pictures.")
    seed: int = Field(description="Seed of people, photographs and pairs.")
    size: int = Field(gt=0, description="Width and height of every picture, pixels.")
    identity_parameters: tuple[str, ...] = Field(description="Names of an identity's numbers, in order.")
    attribute_parameters: tuple[str, ...] = Field(description="Names of a photograph's numbers, in order.")
    identities: dict[str, tuple[float, ...]] = Field(description="Numbers of every identity by its name.")
    photos: dict[str, tuple[float, ...]] = Field(
        description="Attribute numbers of every photograph by image id."
    )
    swap_pairs: tuple[SwapPair, ...] = Field(description="The swaps with known truth.")


@dataclass(frozen=True)
class PortraitSet:
    """A folder of portraits and the parameters behind every picture in it."""

    root: Path
    world: WorldFile

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Image ids of all photographs, in the order of writing."""
        return tuple(self.world.photos)

    @property
    def swap_pairs(self) -> tuple[SwapPair, ...]:
        """The swaps with known truth."""
        return self.world.swap_pairs

    def photo_path(self, image_id: str) -> Path:
        """Where a photograph lies."""
        return self.root / "photos" / f"{image_id}.jpg"

    def truth_path(self, pair: SwapPair) -> Path:
        """Where the exact result of a swap lies, if it is written."""
        return self.root / pair.truth

    def parameters(self, image_id: str) -> tuple[Identities, Attributes]:
        """The identity and the attributes of a photograph, one row each; `KeyError` for an unknown id."""
        if image_id not in self.world.photos:
            raise KeyError(f"{self.root / 'world.json'} has no photograph {image_id!r}")
        identity = self.world.identities[identity_of(image_id)]
        attributes = self.world.photos[image_id]
        return Identities(np.array([identity], np.float32)), Attributes(np.array([attributes], np.float32))

    def render_photos(self, image_ids: list[str]) -> NDArray[np.uint8]:
        """The photographs as rendered, before JPEG: uint8 RGB (N, size, size, 3)."""
        return self._render([(image_id, image_id) for image_id in image_ids])

    def render_truths(self, pairs: list[SwapPair]) -> NDArray[np.uint8]:
        """The exact results of swaps: uint8 RGB (N, size, size, 3), the very pixels of the truth files."""
        return self._render([(pair.source, pair.target) for pair in pairs])

    def _render(self, ids: list[tuple[str, str]]) -> NDArray[np.uint8]:
        if self.world.world_version != WORLD_VERSION:
            raise ValueError(
                f"{self.root / 'world.json'} was made by world version {self.world.world_version}, this is "
                f"{WORLD_VERSION}: its pictures can not be rendered again; write portraits to a new folder"
            )
        if not ids:
            return np.empty((0, self.world.size, self.world.size, 3), np.uint8)
        identities = np.concatenate([self.parameters(source)[0].values for source, _ in ids])
        attributes = np.concatenate([self.parameters(target)[1].values for _, target in ids])
        return render(Identities(identities), Attributes(attributes), self.world.size).images_NHWC


def identity_of(image_id: str) -> str:
    """The identity's name in an image id."""
    return image_id.split("/", maxsplit=1)[0]


def write_portraits(
    root: Path,
    *,
    identities: int = 24,
    photos: int = 8,
    size: int = 256,
    swap_pairs: int = 32,
    held_out: int | None = None,
    train_pairs: int = 0,
    seed: int = 0,
    crops: Sequence[str] = ("face",),
) -> PortraitSet:
    """Write the missing files of a portrait folder and return the whole set.

    `identities` people with `photos` photographs each, `size` pixels square, and the truth of `swap_pairs`
    swaps between different people, the last `held_out` of them (all when None). `train_pairs` swaps between
    the others are listed for training. `crops` are the crops to choose from, as in `sample_attributes`.
    Existing files are left alone, byte and time stamp.

    Raises `ValueError` for bad crops, when more distinct swaps are asked for than there are, or when `root`
    already holds the world file of other numbers.
    """
    held_out = identities if held_out is None else held_out
    world = _describe(identities, photos, size, swap_pairs, held_out, train_pairs, seed, crops)
    return write_world_files(root, world)


def write_world_files(root: Path, world: WorldFile) -> PortraitSet:
    """Write the missing files of the photographs that `world` describes, and return the whole set.

    Raises `ValueError` when `root` already holds another world file.
    """
    portraits = PortraitSet(Path(root), world)
    world_path = portraits.root / "world.json"
    if world_path.exists() and parse_portraits(portraits.root).world != world:
        raise ValueError(
            f"{world_path} describes another world (other version, seed, counts or crops): "
            "write to an empty folder or give the numbers it was written with"
        )
    if not world_path.exists():
        _write(world_path, (world.model_dump_json(indent=1) + "\n").encode())
    missing = [image_id for image_id in portraits.image_ids if not portraits.photo_path(image_id).exists()]
    for image_id, picture in _pictures(missing, portraits.render_photos):
        _write(portraits.photo_path(image_id), _encode(picture, "JPEG", quality=JPEG_QUALITY, subsampling=0))
    pairs = [pair for pair in world.swap_pairs if pair.truth and not portraits.truth_path(pair).exists()]
    for pair, picture in _pictures(pairs, portraits.render_truths):
        _write(portraits.truth_path(pair), _encode(picture, "PNG"))
    table_path = portraits.root / "swap_pairs.csv"
    if not table_path.exists():
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        trained = any(pair.use == "training" for pair in world.swap_pairs)
        columns = ("source", "target", "truth", *(("use",) if trained else ()))
        writer.writerow(columns)
        writer.writerows([getattr(pair, name) for name in columns] for pair in world.swap_pairs)
        _write(table_path, table.getvalue().encode())
    return portraits


def parse_portraits(root: Path) -> PortraitSet:
    """The set that `write_portraits` left in `root`, ready to render any photograph or truth again.

    Raises `FileNotFoundError` without a `world.json` and `ValueError` when it is damaged.
    """
    path = Path(root) / "world.json"
    try:
        world = WorldFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {error}. Delete it and write the portraits again") from error
    unknown = [image_id for image_id in world.photos if identity_of(image_id) not in world.identities]
    if unknown:
        raise ValueError(f"{path} is damaged: photograph {unknown[0]!r} has no identity in it")
    return PortraitSet(Path(root), world)


def _describe(
    identities: int,
    photos: int,
    size: int,
    swap_pairs: int,
    held_out: int,
    train_pairs: int,
    seed: int,
    crops: Sequence[str],
) -> WorldFile:
    if not 0 < held_out <= identities:
        raise ValueError(f"held_out must be 1 to {identities} people, not {held_out}")
    first = identities - held_out
    for people, count in ((held_out, swap_pairs), (first, train_pairs)):
        possible = max(people * (people - 1) * photos, 0)
        if not 0 <= count <= possible:
            raise ValueError(
                f"{people} identities with {photos} photos give at most {possible} swaps, not {count}"
            )
    names = [f"w{person:06d}" for person in range(identities)]
    stems = [f"{photo + 1:04d}_01" for photo in range(photos)]
    people = sample_identities(seed, identities).values
    settings = sample_attributes(seed, identities * photos, crops=crops).values
    pairs = [
        SwapPair(
            source=source, target=target, truth=f"truth/{identity_of(source)}__{target.replace('/', '_')}.png"
        )
        for source, target in _pairs(names[first:], stems, swap_pairs, [seed, _PAIR_STREAM])
    ]
    pairs += [
        SwapPair(source=source, target=target, truth="", use="training")
        for source, target in _pairs(names[:first], stems, train_pairs, [seed, _TRAIN_PAIR_STREAM])
    ]
    return WorldFile(
        world_version=WORLD_VERSION,
        seed=seed,
        size=size,
        identity_parameters=IDENTITY_NAMES,
        attribute_parameters=ATTRIBUTE_NAMES,
        identities={name: numbers(row) for name, row in zip(names, people, strict=True)},
        photos={
            f"{name}/{stem}": numbers(settings[person * photos + photo])
            for person, name in enumerate(names)
            for photo, stem in enumerate(stems)
        },
        swap_pairs=tuple(pairs),
    )


def _pairs(names: list[str], stems: list[str], count: int, stream: list[int]) -> list[tuple[str, str]]:
    """`count` pairs of source and target photographs of different people.

    Every (source person, another person, photograph of theirs) comes at most once: it names the truth file.
    """
    generator = np.random.default_rng(stream)
    others, photos, found = len(names) - 1, len(stems), []
    for choice in generator.choice(len(names) * others * photos, count, replace=False) if count else ():
        source, rest = divmod(int(choice), others * photos)
        other, photo = divmod(rest, photos)
        target = other if other < source else other + 1
        source_stem = stems[int(generator.integers(photos))]
        found.append((f"{names[source]}/{source_stem}", f"{names[target]}/{stems[photo]}"))
    return found


def numbers(row: NDArray[np.float32]) -> tuple[float, ...]:
    """The shortest decimals that read back as the same float32."""
    return tuple(float(str(value)) for value in row)


def _pictures(
    items: list[Item], renderer: Callable[[list[Item]], NDArray[np.uint8]]
) -> Iterator[tuple[Item, NDArray[np.uint8]]]:
    for first in range(0, len(items), _BATCH):
        batch = items[first : first + _BATCH]
        yield from zip(batch, renderer(batch), strict=True)


def _encode(picture: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write through a neighbour and a rename, so that a killed process leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
