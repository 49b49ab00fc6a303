"""The flags of `orchard swap`: what they mean together, which contradict, and where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import typer.core
import typer.main

from assets.identity_pulid import PulidConfig, swap_source_stage
from assets.photo_swaps.settings import ConditionType, FaceSelection, condition_of_type
from assets.stage import RowStage
from models.faces.condition import PIXEL_CONDITION
from models.swap.sampling_config import SamplingConfig
from pipeline.cli import app
from pipeline.commands.swap_folders import last_folder
from pipeline.commands.swap_options import (
    ConditionName,
    InverseCondition,
    Method,
    SwapFlags,
    SwapPlace,
    two_places,
)
from pipeline.options import UsageError
from pipeline.profiles import profile

NO_FLAGS: dict[str, Any] = {
    **dict.fromkeys(SwapFlags.__dataclass_fields__),
    "second_order": False,
    "use_gaze": False,
    "masked_source": False,
    "seed": 0,
}
NOWHERE: dict[str, Any] = {**dict.fromkeys(SwapPlace.__dataclass_fields__), "render_conditions": False}
IRIS, MASK = ConditionName.BLUR_LANDMARK_IRIS, ConditionName.MASK_LANDMARK_IRIS


def settings(*, ffhq: bool = False, **flags: Any):
    return SwapFlags(**{**NO_FLAGS, **flags}).settings(ffhq=ffhq)


def place(**given: Any) -> SwapPlace:
    return SwapPlace(**{**NOWHERE, **given})


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        ({}, "student"),
        ({"condition_type": IRIS}, "teacher"),
        ({"inverse_steps": 4}, "teacher_inversion"),
        ({"condition_type": MASK, "second_order": True}, "teacher_inversion"),
        ({"inverse_cond": InverseCondition.NONE}, "teacher_inversion"),
        ({"method": Method.TEACHER}, "teacher"),
        ({"method": Method.TEACHER_INVERSION, "condition_type": IRIS}, "teacher_inversion"),
    ],
)
def test_the_method_follows_from_the_flags_as_in_the_original(flags: dict[str, Any], method: str) -> None:
    assert settings(**flags).method == method


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"method": Method.STUDENT, "condition_type": IRIS}, "the student sees the target itself"),
        ({"method": Method.STUDENT, "inverse_steps": 2}, "starts from noise"),
        ({"method": Method.TEACHER, "second_order": True}, "starts from noise"),
        ({"use_gaze": True}, "iris dots"),
        ({"raw_frame": True, "faces": "all"}, "--faces is about faces"),
        ({"raw_frame": True, "feather": 0.1}, "--feather is about faces"),
        ({"faces": "second"}, "chooses no face"),
        ({"faces": "index:-1"}, "chooses no face"),
        ({"faces": "closest:"}, "chooses no face"),
        ({"source_face": "all"}, "one face"),
        ({"source_face": "index:0,1"}, "one face"),
    ],
)
def test_flags_that_contradict_are_refused(flags: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        settings(**flags)


def test_photo_mode_is_the_default_and_raw_frames_that_of_the_ffhq_tree() -> None:
    assert not settings().raw_frame
    assert settings(ffhq=True).raw_frame
    assert not settings(ffhq=True, raw_frame=False).raw_frame
    assert settings(raw_frame=True).raw_frame


def test_guidances_and_inversion_replace_the_profiles_values_together() -> None:
    plain = SamplingConfig(steps=8, inversion=None, id_guidance_scale=4.0)
    inversion = SamplingConfig(steps=8)
    flags: dict[str, Any] = {"guidance_scale": 2.0, "image_guidance_scale": 1.5, "id_guidance_scale": 0.5}
    guided = settings(condition_type=IRIS, **flags).sampling(plain, inversion)
    assert guided == plain.model_copy(update=flags)
    assert settings().sampling(plain, inversion) == plain
    partial = settings(inverse_steps=3, inverse_cond=InverseCondition.FULL).sampling(plain, inversion)
    assert (partial.inversion, partial.inverse_steps, partial.steps) == ("trgID_trgCond", 3, 8)
    with pytest.raises(ValueError, match="inverse_steps 9 exceeds steps 8"):
        settings(inverse_steps=9).sampling(plain, inversion)


def test_condition_types_are_the_folders_of_the_original() -> None:
    names = get_args(ConditionType)
    assert names == tuple(ConditionName)
    assert {name: condition_of_type(name).folder for name in names} == {
        "blur_landmark": "condition_blended_image_blurdownsample8_segGlass_landmark",
        "blur_landmark_iris": "condition_blended_image_blurdownsample8_segGlass_landmark_iris",
        "mask_landmark_iris": "condition_blended_image_mask_segGlass_landmark_iris",
    }
    small = PIXEL_CONDITION
    assert settings(condition_type=MASK).recipe(small) == small.model_copy(
        update={"variant": "mask", "downsample_size": 8}
    )
    assert settings().recipe(small) is small


def test_faces_are_chosen_by_one_word() -> None:
    assert FaceSelection.parse("largest") == FaceSelection()
    assert FaceSelection.parse("index:2,0,2").indices == (2, 0)
    assert FaceSelection.parse("closest:a:b.jpg").photo == Path("a:b.jpg")


def test_sources_are_embedded_unmasked_where_training_masks_them() -> None:
    trained = profile("flux-krea").graph()["identity_embedding"]
    assert isinstance(trained, RowStage)
    swapped = swap_source_stage(trained)
    assert isinstance(trained.config, PulidConfig)
    assert isinstance(swapped.config, PulidConfig)
    assert (trained.config.source, swapped.config.source) == ("masked", "unmasked")
    assert swap_source_stage(trained, masked=True).config == trained.config
    assert (swapped.name, swapped.outputs) == (trained.name, trained.outputs)
    other = profile("tiny").graph()["identity_embedding"]
    assert isinstance(other, RowStage)
    assert swap_source_stage(other) is other


def test_places_that_contradict_are_refused(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.touch()
    pair = {"source": photo, "target": photo}
    folders = {"source": tmp_path, "target": tmp_path}
    refused = [
        ({}, "give SOURCE and TARGET"),
        ({"source": photo}, "give SOURCE and TARGET"),
        ({"source": photo, "target": tmp_path}, "both be photographs or both be folders"),
        (folders, "need a folder"),
        ({"ffhq_base_path": tmp_path}, "need a folder"),
        ({**pair, "ffhq_base_path": tmp_path, "out": tmp_path}, "not both"),
        ({**pair, "run_name": "mine"}, "--base_path"),
        ({**pair, "out": tmp_path, "base_path": tmp_path}, "not to both"),
        ({**pair, "out": tmp_path / "swap.jpg"}, "results are PNG"),
    ]
    for given, complaint in refused:
        with pytest.raises(UsageError, match=complaint):
            _ = place(**given).many
    assert not place(**pair).many
    assert place(**pair, base_path=tmp_path).many
    assert place(**folders, out=tmp_path).many


def test_results_lie_where_the_original_puts_them() -> None:
    here = place(base_path=Path("root"), run_name="run", ckpt="50k")
    folder = here.folder("0123", settings(), (1, 1.5, 1.0))
    assert folder == Path("root/results/run_ckpt50k_gs1.0_imgGS1.5_idGS1.0/ffhq_eval")
    assert last_folder(None, 28, second_order=False) == "base"
    assert last_folder("noID_trgCond", 28, second_order=False) == "invFix_noID_trgCond_28"
    assert last_folder("noID_noCond", 7, second_order=True) == "invFix_noID_noCond_7_2ndTrue"
    assert place(out=Path("out")).folder("0123", settings(), (1, 1, 1)) == Path("out")


def test_the_originals_flags_stand_under_their_own_names_and_with_dashes() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    options = {name for item in group.commands["swap"].params for name in item.opts}
    for flag in (
        *("guidance_scale", "image_guidance_scale", "id_guidance_scale", "condition_type"),
        *("inverse_steps", "inverse_cond", "second_order", "use_gaze", "run_name", "ckpt"),
        *("checkpoint_path", "base_path", "ffhq_base_path", "model_id"),
    ):
        assert {f"--{flag}", f"--{flag.replace('_', '-')}"} <= options


def test_a_clip_as_the_target_is_known_by_its_name_and_refuses_what_is_for_photographs(
    tmp_path: Path,
) -> None:
    photo, clip = tmp_path / "a.png", tmp_path / "b.MP4"
    clip.write_bytes(b"")
    assert place(source=photo, target=clip).clip
    assert not place(source=photo, target=photo).clip
    for given, said in (
        ({"source": tmp_path}, "one photograph as its source"),
        ({}, "one photograph as its source"),
        ({"source": photo, "out": tmp_path / "c.mkv"}, "made clips are MP4"),
        ({"source": photo, "out": clip}, "is the target"),
        ({"source": photo, "base_path": tmp_path}, "for photographs"),
    ):
        with pytest.raises(UsageError, match=said):
            _ = place(target=clip, **given).clip


def test_source_and_target_stand_in_their_order_or_have_their_names() -> None:
    a, b, c = map(Path, "abc")
    assert two_places((a, b), None, None) == (a, b)
    assert two_places((a, None), None, b) == (a, b)
    assert two_places((b, None), a, None) == (a, b)
    assert two_places((None, None), a, b) == (a, b)
    with pytest.raises(UsageError, match="given already"):
        two_places((c, None), a, b)
