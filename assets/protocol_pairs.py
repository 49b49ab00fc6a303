"""What the protocol measures on: photographs of the pairs, and every method's swaps brought to their shape.

Pictures are decoded when they are looked at, so that a thousand of 512 px are never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from assets.annotating import annotate_pictures, in_shape, lies_on, mesh_centre
from assets.landmarks import FACE_AT
from assets.runner import load_model
from assets.stage import Row, StageContext, StageGraph
from assets.swap_methods import PAIR, stored_swaps
from assets.triplet_scores import COEFFICIENTS, MESH
from models.faces.frame import square_picture
from models.metrics.protocol import FaceReading, ProtocolPairs, SwapOutputs
from resources.lake.lake import Lake
from resources.photos.decoding import DecodeLimits, decode_upright
from resources.photos.reasons import RowError

LANDMARKS_68, POSE = "landmarks_68", "pose"
SMALL_PICTURES = DecodeLimits(min_side=1)
READ_AT_ONCE = 64
"""Pictures that are annotated together; bounds memory."""


def common_swaps(lake: Lake, recipe: str | None, *, diffface: bool) -> tuple[dict[str, dict[str, Row]], int]:
    """Rows by pair and method of the pairs that every method has swapped, and how many pairs that leaves out.

    A method of which no swap at all is ok is not among the methods. `diffface` says whether the profile has
    the stage `diffface_swaps`.
    """
    found: dict[str, dict[str, Row]] = {}
    pairs: set[str] = set()
    for row in stored_swaps(lake, recipe, ["source_image_id", "target_image_id", "swap"], diffface=diffface):
        pairs.add(row[PAIR])
        if row["ok"]:
            found.setdefault(row[PAIR], {})[row["method"]] = row
    methods = sorted({method for made in found.values() for method in made})
    whole = {
        pair: {method: found[pair][method] for method in methods}
        for pair in sorted(found)
        if len(found[pair]) == len(methods)
    }
    return whole, len(pairs) - len(whole)


class _Pictures(Sequence[np.ndarray]):
    """Pictures that are decoded when they are asked for, each in a shape of its own."""

    def __init__(self, data: Sequence[Any], show: Callable[[int, Any], np.ndarray]) -> None:
        self.data, self.show = data, show

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return self.show(index, self.data[index])


class ProtocolPhotographs:
    """Photographs of the pairs and their annotation, and swaps read in the same way.

    Args:
        context: of the stage.
        graph: the stages that annotate, `landmarks` last.
        swaps: rows by method of each pair, as from `common_swaps`.
        size: side of the swaps, px.
        long_side: pictures are brought to the shape of their photograph, but to no longer side, px.
    """

    def __init__(
        self,
        context: StageContext,
        graph: StageGraph,
        swaps: Sequence[Mapping[str, Row]],
        *,
        size: int,
        long_side: int,
    ) -> None:
        self.context, self.graph, self.size, self.long_side = context, graph, size, long_side
        first = [next(iter(made.values())) for made in swaps]
        sources = list(dict.fromkeys(row["source_image_id"] for row in first))
        targets = [row["target_image_id"] for row in first]
        columns = {column.name for stage in graph.row_stages() for column in stage.outputs}
        self.names = [LANDMARKS_68, MESH, POSE, *([COEFFICIENTS] if COEFFICIENTS in columns else [])]
        wanted = ["image", "identity", "width", "height", *self.names]
        photos = context.lake.faces.snapshot().find(list(dict.fromkeys([*sources, *targets])), wanted)
        self.targets = [photos[name] for name in targets]
        gallery = [photos[name] for name in sources]
        distinct = [photos[name] for name in dict.fromkeys(targets)]
        place = {name: index for index, name in enumerate(sources)}
        self.pairs: ProtocolPairs = ProtocolPairs(
            sources=self._shown(gallery),
            source_landmarks=[self._landmarks(photo) for photo in gallery],
            source_people=[photo["identity"] for photo in gallery],
            source_of=np.array([place[row["source_image_id"]] for row in first]),
            targets=self._shown(self.targets),
            target_landmarks=[self._landmarks(photo) for photo in self.targets],
            target_faces=[self._reading(photo, self._scale(photo)) for photo in self.targets],
            reference=self._shown(distinct),
        )

    def copies(self) -> SwapOutputs:
        """The targets themselves, through the size of the swaps."""
        size = self.size
        return self._read(
            _Pictures(
                self.targets,
                lambda row, photo: self._in_shape(square_picture(decode_upright(photo["image"]), size), row),
            )
        )

    def outputs(self, swaps: Sequence[bytes]) -> SwapOutputs:
        """Swapped pictures, PNG, in the order of the pairs."""
        return self._read(
            _Pictures(swaps, lambda row, data: self._in_shape(decode_upright(data, SMALL_PICTURES), row))
        )

    def _read(self, pictures: _Pictures) -> SwapOutputs:
        faces: list[FaceReading | None] = []
        for start in range(0, len(pictures), READ_AT_ONCE):
            rows = range(start, min(start + READ_AT_ONCE, len(pictures)))
            asked = [{"image": pictures[row], FACE_AT: self._face_at(row)} for row in rows]
            faces += self._faces(asked, rows)
        return SwapOutputs(pictures, faces)

    def _faces(self, asked: Sequence[Row], rows: Sequence[int]) -> Iterator[FaceReading | None]:
        context = self.context
        found = annotate_pictures(
            asked,
            self.graph,
            lambda stage: load_model(context.lake, self.graph, stage, context.device, context.report),
        )
        for row, picture in zip(rows, found, strict=True):
            theirs = self.pairs.target_faces[row].mesh_478x3
            if isinstance(picture, RowError) or not lies_on(picture[MESH], theirs):
                yield None
            else:
                yield self._reading(picture, 1.0)

    def _face_at(self, row: int) -> tuple[float, float]:
        x, y = mesh_centre(self.pairs.target_faces[row].mesh_478x3)
        return float(x), float(y)

    def _in_shape(self, picture: np.ndarray, row: int) -> np.ndarray:
        photo = self.targets[row]
        return in_shape(picture, photo["width"], photo["height"], self.long_side)[0]

    def _shown(self, photos: Sequence[Row]) -> _Pictures:
        def show(_: int, photo: Row) -> np.ndarray:
            picture = decode_upright(photo["image"])
            return in_shape(picture, photo["width"], photo["height"], self.long_side)[0]

        return _Pictures(photos, show)

    def _scale(self, photo: Row) -> float:
        return min(1.0, self.long_side / max(photo["width"], photo["height"]))

    def _landmarks(self, photo: Row) -> np.ndarray:
        points = np.asarray(photo[LANDMARKS_68], np.float32).reshape(68, 2)
        return points * np.float32(self._scale(photo))

    def _reading(self, row: Row, scale: float) -> FaceReading:
        mesh, pose, *others = (np.asarray(row[name], np.float32) for name in self.names[1:])
        return FaceReading(mesh.reshape(478, 3) * np.float32(scale), pose, *others)
