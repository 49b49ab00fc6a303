"""Every published fault can be switched on by its name, and is seen when it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.diffface.blending import face_mask
from models.diffface.compat import CompatConfig, position_pairs, sorted_pictures
from models.diffface.ranking import repeat_files
from models.diffface.settings import DiffFaceSettings

LOUD_GAZE = {"expert_weights": {"gaze": 20_000, "gaze_window": (0, 3)}}

PICTURES: dict[str, dict[str, Any]] = {
    "ddim_unblended": {"ddim": True},
    "literal_75": {},
    "double_parser_normalisation": {},
    "nearest_identity_crop": {},
    "fixed_gaze_box": LOUD_GAZE,
    "washed_out_gaze": LOUD_GAZE,
    "colour_map_alpha": {"no_enforce_background": True},
    "reblend_at_t": {},
    "prediction_as_result": {"loss_weight": 200_000},
    "index_by_scaling": {"timestep_respacing": "4,6"},
    "unclipped_gradient": {"gradient_limit": 0.1},
}
"""Faults that change pictures, and the settings under which they do."""

ELSEWHERE = {"glasses_outside_mask", "overwriting_ranks", "restarting_pairs"}


def test_no_fault_is_forgotten() -> None:
    assert set(CompatConfig.model_fields) == set(PICTURES) | ELSEWHERE
    assert CompatConfig().active == ()
    assert set(CompatConfig.published().active) == set(CompatConfig.model_fields)


@pytest.mark.parametrize("fault", PICTURES)
def test_each_fault_is_seen(small_diffface, fault: str) -> None:
    settings = small_diffface.settings(**PICTURES[fault])
    faulty = settings.model_copy(update={"compat": CompatConfig(**{fault: True})})
    right, wrong = (small_diffface.swap(each).images_NHWC for each in (settings, faulty))
    assert (right != wrong).any(axis=3).mean() > 0.02
    if not settings.no_enforce_background:
        mask = small_diffface.inputs.masks_NHW[0]
        assert np.array_equal(wrong[0][~mask], small_diffface.inputs.targets_NHWC[0][~mask])


def test_all_faults_together_still_give_pictures(small_diffface) -> None:
    for free in (False, True):
        settings = small_diffface.settings(compat=CompatConfig.published(), no_enforce_background=free)
        result = small_diffface.swap(settings, (1,))
        assert result.reasons_NR == [[None]]
        assert np.isfinite(result.distances_N).all()


def test_glasses_are_outside_the_published_mask(small_diffface) -> None:
    codes = small_diffface.codes_NHW[1:2]
    with_glasses, without = (
        face_mask(codes, CompatConfig(glasses_outside_mask=fault)) for fault in (False, True)
    )
    assert (with_glasses & ~without).sum() == (codes == 6).sum() > 0


def test_equal_distances_overwrite_each_other_in_the_published_ranking(small_diffface) -> None:
    distances = [0.18341, 0.18349, 0.2]
    kept = repeat_files(3, distances, small_diffface.settings())
    lost = repeat_files(3, distances, small_diffface.settings(compat=CompatConfig(overwriting_ranks=True)))
    assert [str(files.rank) for files in kept if files] == [
        "output/Rank3/01834.png",
        "output/Rank3/01834_2.png",
        "output/Rank3/02000.png",
    ]
    assert len({files.rank for files in lost if files}) == 2


def test_folders_are_paired_by_position(tmp_path: Path) -> None:
    assert position_pairs(2, 2, CompatConfig()) == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="3 sources and 2 targets"):
        position_pairs(3, 2, CompatConfig())
    restarting = CompatConfig(restarting_pairs=True)
    assert position_pairs(3, 2, restarting) == [(0, 0), (1, 1), (0, 0)]
    assert position_pairs(2, 3, restarting) == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="no pair"):
        position_pairs(0, 3, restarting)

    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in sorted_pictures(tmp_path)] == ["a.png", "b.JPG"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        sorted_pictures(tmp_path / "absent")


def test_the_documentation_names_every_fault_and_every_argument() -> None:
    page = (Path(__file__).parents[3] / "docs" / "diffface.md").read_text(encoding="utf-8")
    told = page[: page.index("## Measured")]
    rows = {line.split("|")[1].strip(): line for line in told.splitlines() if line.startswith("| `")}
    assert {f"`{name}`" for name in CompatConfig.model_fields} <= set(rows)
    settings = DiffFaceSettings()
    for name in list(DiffFaceSettings.model_fields)[:13]:
        default = getattr(settings, name)
        shown = "off" if default is False else f"{default:g}" if isinstance(default, float) else str(default)
        assert rows[f"`{name}`"].split("|")[2].strip() == shown
    assert all(f"`{name}`" in page for name in DiffFaceSettings.model_fields)
