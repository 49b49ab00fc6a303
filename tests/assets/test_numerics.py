"""Numerics of stages: what is asked for by name is in the fingerprint, what `auto` comes to is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from assets.annotating import annotation_recipes
from assets.identity_pulid import PulidConfig, identity_pulid_stage, swap_source_stage
from assets.landmarks_reconstruction import ReconstructionConfig, landmarks_reconstruction_stage
from assets.masks_networks import NetworkMasksConfig, masks_networks_stage
from assets.numerics import PIXELS_ARE_EXACT, prepared
from assets.stage import RowStage, StageContext, StageGraph
from assets.swap_base import one_file_base
from models.numerics_config import Numerics
from models.swap import config as swap_models
from resources.lake.digest import recipe_prefix
from resources.lake.lake import Lake


def masks(numerics: Numerics = Numerics()) -> RowStage:
    return masks_networks_stage(NetworkMasksConfig(), numerics)


def test_only_a_precision_that_was_asked_for_changes_the_fingerprint() -> None:
    plain = masks()
    unchanged = (Numerics(channels_last="on"), Numerics(compile=True), Numerics(precision="auto"))
    assert [masks(other).settings for other in unchanged] == [plain.settings] * 3
    assert plain.settings == plain.config.model_dump(mode="json")  # as before there were numerics
    asked = [masks(Numerics(precision=name)).settings for name in ("float32", "bfloat16", "float16")]
    assert [settings["precision"] for settings in asked] == ["float32", "bfloat16", "float16"]
    prefixes = {recipe_prefix("masks", "1", settings, "") for settings in (plain.settings, *asked)}
    assert len(prefixes) == 4
    # scores of swaps are made by the same stages: they know it too
    (recipe,) = annotation_recipes(StageGraph((masks(Numerics(precision="bfloat16")),)))
    assert recipe.settings["precision"] == "bfloat16"


def test_stages_hand_their_numerics_on() -> None:
    half = Numerics(precision="float16", compile=True)
    stage = identity_pulid_stage(PulidConfig(), half)
    assert swap_source_stage(stage).numerics == half
    landmarks = landmarks_reconstruction_stage(ReconstructionConfig(), half)
    assert (landmarks.numerics, landmarks.exact) == (half, PIXELS_ARE_EXACT)


def test_a_compiled_base_is_the_same_base() -> None:
    base = one_file_base("tiny_base", swap_models.tiny())
    compiled = base.model_copy(update={"compile": True})
    assert compiled.model_dump(mode="json") == base.model_dump(mode="json")


def test_what_was_chosen_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    context = StageContext(Lake.open(tmp_path / "lake", create=True), {}, "cpu", told.append)
    network = nn.Conv2d(3, 8, 3)
    ready = prepared(network, context, Numerics(precision="bfloat16"), name="masks, BiSeNet")
    assert ready is network
    assert told == [
        "masks, BiSeNet on cpu: bfloat16 (asked for); channels last off (auto: no gain without half "
        "precision on a GPU); not compiled (not asked for)"
    ]
    assert ready(torch.rand(1, 3, 8, 8)).dtype == torch.float32
    prepared(network, context, Numerics(), name="masks, BiSeNet")
    assert "float32 (auto: cpu has no faster format that is as safe)" in told[1]
