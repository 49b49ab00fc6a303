"""Methods of `orchard swap` that need no checkpoint, no base and no lake: a classical warp, and DiffFace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from assets.diffface_config import OF_THE_RUN
from assets.photo_swaps.annotation import MASKS, Annotator
from assets.photo_swaps.face_by_face import FaceByFaceSwapper
from assets.photo_swaps.settings import SwapSettings
from assets.stage import StageGraph
from models.diffface.settings import DiffFaceSettings
from pipeline.options import UsageError, find_profile
from pipeline.weights_gate import require_weights


def need_alone(profile: str, settings: SwapSettings) -> StageGraph:
    """The profile's stages, of which annotation alone and, for DiffFace, its networks need their files.

    Raises WeightError where files lack, LakeError in a profile without DiffFace.
    """
    graph = find_profile(profile).graph()
    roles = {role for stage in graph.needed_for([MASKS]).stages for role in stage.weights}
    if settings.method == "diffface":
        from assets.photo_swaps.diffface import diffface_config

        roles.update(diffface_config(graph, profile).roles.all)
    require_weights(profile, sorted(roles))
    return graph


def open_alone(
    annotator: Annotator,
    graph: StageGraph,
    settings: SwapSettings,
    arguments: Sequence[str],
    profile: str,
    device: str,
    *,
    grid: bool,
    report: Callable[[str], None],
) -> FaceByFaceSwapper[Any]:
    """What swaps by the method of these settings.

    Args:
        annotator: finds and describes faces.
        graph: the profile's stages, whose `diffface_swaps` names DiffFace's networks.
        settings: the method and all that photographs have in common.
        arguments: DiffFace's, as NAME=VALUE.
        profile: the profile's name, for messages.
        device: as of `choose_device`.
        grid: whether grids are drawn.
        report: receives sentences for people.

    Raises UsageError for arguments that are none, LakeError in a profile without DiffFace.
    """
    if settings.method == "mesh_warp":
        from assets.photo_swaps.warping import MeshWarper

        return MeshWarper(annotator, settings, grid=grid)
    from assets.photo_swaps.diffface import DiffFacePhotos, OpenedDiffFace, diffface_config

    config = diffface_config(graph, profile)
    opened = OpenedDiffFace.open(config, _changed(config.settings, arguments), device, report)
    return DiffFacePhotos(annotator, settings, opened, grid=grid)


def _changed(settings: DiffFaceSettings, arguments: Sequence[str]) -> DiffFaceSettings:
    """The profile's settings with some arguments changed. UsageError for what is none."""
    changes: dict[str, str] = {}
    known = sorted(set(DiffFaceSettings.model_fields) - OF_THE_RUN - {"compat", "expert_weights"})
    for argument in arguments:
        name, given, value = argument.partition("=")
        name = name.strip().replace("-", "_")
        if not given or name not in known:
            raise UsageError(f"--diffface {argument}: write NAME=VALUE with one of {', '.join(known)}")
        changes[name] = value.strip()
    try:
        return DiffFaceSettings.model_validate({**dict(settings), **changes})
    except ValidationError as error:
        told = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise UsageError(f"--diffface: {told}") from error
