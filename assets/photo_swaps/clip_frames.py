"""Frames of a clip, one after the other: who is who, which faces are swapped, and why one was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from assets.photo_swaps.clip_store import FaceOutcome, FollowState, FrameRecord
from assets.photo_swaps.faces import PhotoFace
from assets.photo_swaps.outputs import SwappedPhoto, TargetFace
from assets.photo_swaps.pairs import PhotoPair
from assets.photo_swaps.run import Swaps
from models.faces.images import Image, Mask
from models.faces.tracking import follow
from resources.photos.reasons import Reason, RowError
from resources.video.reading import ClipFrame


class SwapsFrames(Swaps, Protocol):
    """What swaps photographs and can be given a picture in memory, face by face."""

    def identity_of(self, source: Path) -> Any:
        """What is taken of a source. Raises RowError where it cannot be used."""
        ...

    def faces_in(self, image: Image) -> list[PhotoFace]:
        """Every face of an upright picture. Raises RowError where there is none."""
        ...

    def embed_faces(self, image: Image, faces: Sequence[PhotoFace]) -> np.ndarray:
        """Embeddings (N, 128) that tell people apart."""
        ...

    def chosen(self, image: Image, faces: Sequence[PhotoFace]) -> list[PhotoFace]:
        """Those that the settings mean. Raises RowError where there are none."""
        ...

    def swap_faces(
        self, pair: PhotoPair, given: Any, image: Image, faces: Sequence[PhotoFace]
    ) -> SwappedPhoto:
        """Swap faces of a picture; each is swapped, or says why not."""
        ...


class FrameSwapper:
    """Swaps the followed faces of one frame after another.

    The noise of a face is decided by its number, not by the frame, so that it does not flicker. Each frame
    goes through the models alone: a run that was killed and one that was not give the same bits.

    Args:
        swapper: models and settings.
        pair: the source and the clip; its name decides the noise.

    Raises:
        RowError: the source cannot be used.
    """

    def __init__(self, swapper: SwapsFrames, pair: PhotoPair) -> None:
        self._swapper, self._pair = swapper, pair
        self._given = swapper.identity_of(pair.source)
        self.state = FollowState()

    def swap(self, frame: ClipFrame) -> tuple[FrameRecord, Image, Mask]:
        """The frame's record, its picture with the new faces, and where that may differ from the frame."""
        image = frame.image
        try:
            found, problem = self._swapper.faces_in(image), None
        except RowError as error:
            found, problem = [], error
        numbers = self._follow(frame.index, image, found)
        if self.state.chosen is None and found:
            try:
                self._choose(image, found, numbers)
            except RowError as error:
                problem = error
        wanted = self._wanted(numbers)
        if not wanted:
            problem = problem or RowError(Reason.NO_FACE, "the chosen face has not appeared")
            outcomes = [FaceOutcome(reason=problem.reason.value, detail=problem.detail)]
            return self._record(frame, outcomes), image, np.zeros(image.shape[:2], np.bool_)
        present = [
            replace(face, index=number)
            for face, number in zip(found, numbers, strict=True)
            if number in wanted
        ]
        made = self._swapper.swap_faces(self._pair, self._given, image, present)
        absent = sorted(set(wanted) - {face.index for face in present})
        among = "no face was found" if not found else f"it is none of the {len(found)} faces found"
        outcomes = [_outcome(face) for face in made.faces] + [
            FaceOutcome(face=number, reason=Reason.NO_FACE.value, detail=among) for number in absent
        ]
        assert made.mask_HW is not None  # clips know no raw frames
        return self._record(frame, outcomes), made.picture, made.mask_HW

    def _follow(self, index: int, image: Image, found: Sequence[PhotoFace]) -> list[int]:
        embeddings_ND = self._swapper.embed_faces(image, found) if found else np.empty((0, 0), np.float32)
        boxes_N4 = np.array([face.crop.box_4 for face in found], np.float32).reshape(-1, 4)
        tracks, numbers = follow(
            self.state.tracks, index, boxes_N4, embeddings_ND, wanted=self.state.chosen or ()
        )
        self.state = self.state.model_copy(update={"tracks": tracks})
        return numbers

    def _choose(self, image: Image, found: Sequence[PhotoFace], numbers: Sequence[int]) -> None:
        """Settle whom the settings mean, at the first frame in which they are all there."""
        if self._swapper.settings.faces.choice == "all":
            return
        places = [face.index for face in self._swapper.chosen(image, found)]
        chosen = tuple(numbers[place] for place in places)
        self.state = self.state.model_copy(update={"chosen": chosen})

    def _wanted(self, numbers: Sequence[int]) -> tuple[int, ...]:
        if self._swapper.settings.faces.choice == "all":
            return tuple(numbers)
        return self.state.chosen or ()

    def _record(self, frame: ClipFrame, outcomes: Sequence[FaceOutcome]) -> FrameRecord:
        return FrameRecord(index=frame.index, pts=frame.pts, faces=tuple(outcomes), state=self.state)


def _outcome(face: TargetFace) -> FaceOutcome:
    assert face.face is not None  # clips know no raw frames
    box = tuple(round(float(side), 1) for side in face.face.crop.box_4)
    if face.problem is None:
        return FaceOutcome(face=face.face.index, box=box)
    return FaceOutcome(
        face=face.face.index, box=box, reason=face.problem.reason.value, detail=face.problem.detail
    )
