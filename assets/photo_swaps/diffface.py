"""DiffFace on photographs outside the lake: `orchard swap --method diffface`, and the frames of
`orchard diffface`.

The first finds faces, swaps each in an aligned crop and puts it back inside its mask. The second takes whole
pictures as frames, aligned portraits as the published program wants them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assets.diffface_config import DIFFFACE, DIFFFACE_SWAPS, DiffFaceSwapsConfig, settings_on
from assets.diffface_frames import DiffFacePair, diffface_pair, swap_pairs, visible_face, why_stopped
from assets.photo_swaps.annotation import MASKS, Annotator
from assets.photo_swaps.face_by_face import FaceByFaceSwapper
from assets.photo_swaps.outputs import TargetFace, paste_faces
from assets.photo_swaps.settings import SwapSettings
from assets.stage import StageGraph
from assets.swapping import row_seed
from models.diffface.networks import DiffFaceNetworks, open_networks
from models.diffface.settings import DiffFaceSettings
from models.faces.images import Image, Mask
from resources.compute.device import choose_device
from resources.lake.errors import LakeError
from resources.photos.decoding import decode_upright, read_photo
from resources.photos.reasons import RowError
from resources.weights.resolve import resolve


def diffface_config(graph: StageGraph, profile: str) -> DiffFaceSwapsConfig:
    """How a profile's stage `diffface_swaps` swaps. Raises LakeError in a profile without DiffFace."""
    if DIFFFACE_SWAPS in graph.names:
        config = graph[DIFFFACE_SWAPS].config
        assert isinstance(config, DiffFaceSwapsConfig)  # of that stage
        return config
    raise LakeError(
        f"the profile {profile} has no stage {DIFFFACE_SWAPS}, which names the networks of DiffFace; take a "
        "profile that has it"
    )


@dataclass(frozen=True)
class OpenedDiffFace:
    """Networks and settings on one device, and what marks call the model."""

    networks: DiffFaceNetworks
    settings: DiffFaceSettings
    model_id: str

    @classmethod
    def open(
        cls,
        config: DiffFaceSwapsConfig,
        settings: DiffFaceSettings,
        device: str,
        report: Callable[[str], None],
    ) -> OpenedDiffFace:
        """Load the networks where `choose_device` says. Raises as that and `open_networks` do."""
        choice = choose_device(device)
        report(f"{DIFFFACE}: {choice.reason}")
        weights = {role: resolve(role) for role in config.roles.all}
        files = {role: weight.path for role, weight in weights.items()}
        return cls(
            open_networks(config.networks, files, choice.device),
            settings_on(settings, choice.device),
            f"{DIFFFACE}-{weights[config.roles.denoiser].sha256[:12]}",
        )

    def pair(self, source: dict[str, Any], target: dict[str, Any], number: int) -> DiffFacePair:
        """Two annotated pictures as a pair. Raises RowError where the target's face is too small."""
        points = np.asarray(source["landmarks_68"], np.float32).reshape(68, 2)
        identity_D = self.networks.embed([source["image"]], [points])[0]
        return diffface_pair(
            source,
            target,
            identity_D,
            side=self.networks.side,
            number=number,
            compat=self.settings.compat,
        )


class DiffFacePhotos(FaceByFaceSwapper[dict[str, Any]]):
    """Swaps the faces of photographs by DiffFace; every pixel outside their masks stays as it was.

    Args:
        annotator: the profile's annotation.
        settings: which faces, how crops are aligned, how far pasted faces fade.
        opened: networks, and DiffFace's own settings.
        grid: whether grids are drawn.
    """

    def __init__(
        self, annotator: Annotator, settings: SwapSettings, opened: OpenedDiffFace, *, grid: bool = False
    ) -> None:
        super().__init__(annotator, settings, grid=grid)
        self._opened = opened

    @property
    def model_id(self) -> str:
        """What marks and manifests call it."""
        return self._opened.model_id

    @property
    def decided(self) -> dict[str, Any]:
        """What decides results besides photographs and settings, for digests."""
        return super().decided | {DIFFFACE: self._opened.settings.model_dump(mode="json")}

    def _give(self, row: dict[str, Any]) -> dict[str, Any]:
        return row

    def _put(
        self,
        picture: Image,
        changed: Mask,
        face: TargetFace,
        row: dict[str, Any],
        given: dict[str, Any],
        name: str,
    ) -> RowError | None:
        assert face.face is not None  # faces of photographs have crops
        number = row_seed(f"{name}:{self.settings.seed}:{face.face.index}")
        try:
            pair = self._opened.pair(given, row, number)
        except RowError as error:
            return error
        result = swap_pairs(self._opened.networks, [pair], self._opened.settings)
        stopped = why_stopped(result, 0)
        if stopped is not None:
            return stopped
        face.mask_CC = visible_face(row, self._opened.settings.compat)
        face.frame = face.condition = pair.target
        face.swapped = result.best(0).image_HWC
        pasted, mask = paste_faces(picture, [face], self.settings.feather)
        picture[...] = pasted
        changed |= mask
        return None


class DiffFaceFrames:
    """Whole pictures as pairs for DiffFace, annotated by the profile.

    Args:
        annotator: the profile's annotation.
        opened: networks, and DiffFace's own settings.
    """

    def __init__(self, annotator: Annotator, opened: OpenedDiffFace) -> None:
        self._annotator, self._opened = annotator, opened

    def pair(self, source: Path, target: Path, number: int) -> DiffFacePair:
        """Two files as a pair. Raises RowError, which says the file, where one cannot be used."""
        return self._opened.pair(self._row(source), self._row(target), number)

    def _row(self, path: Path) -> dict[str, Any]:
        try:
            (row,) = self._annotator.annotate([{"image": decode_upright(read_photo(path))}], [MASKS])
        except RowError as error:
            row = error
        if isinstance(row, RowError):
            raise RowError(row.reason, f"{path}: {row.detail}")
        return row
