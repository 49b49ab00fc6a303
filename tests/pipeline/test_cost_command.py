"""`orchard cost`: what it prints, and how it answers wrong names."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from assets.diffface_config import DIFFFACE_SWAPS, DiffFaceSwapsConfig
from assets.release import ReleaseConfig
from assets.training import TrainingConfig
from models.diffface.cost import guided_passes
from models.swap.cost_stages import GPUS
from pipeline.cli import app
from pipeline.commands.cost import show
from pipeline.cost_estimate import settings
from pipeline.profiles import PROFILES


@pytest.fixture(scope="module")
def tiny() -> dict:
    arguments = ["cost", "--profile", "tiny", "--images", "1000", "--gpu", "a6000", "--gpus", "2", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_every_stage_is_told_with_units_work_and_hours(tiny: dict) -> None:
    stages = tiny["stages"]
    assert {"landmarks", "masks", "latents", "teacher", "pseudo_triplets", "student", "swaps"} <= set(stages)
    assert stages["latents"]["units"] == 1000
    recipe = settings(PROFILES["tiny"].graph(), "teacher", TrainingConfig).recipe
    assert stages["teacher"]["units"] == recipe.steps * recipe.batch_size
    rate = GPUS["a6000"].peak_tflops * 0.35
    assert tiny["gpu"]["assumed_tflops"] == pytest.approx(rate)
    for stage in stages.values():
        assert stage["hours"] == pytest.approx(stage["pflop"] * 1e3 / rate / 2 / 3600, rel=1e-2)
    assert tiny["total_hours"] == pytest.approx(sum(stage["hours"] for stage in stages.values()), abs=1e-2)


def test_guided_swaps_are_counted_where_a_profile_has_them() -> None:
    done = CliRunner().invoke(
        app, ["cost", "--profile", "smoke", "--images", "10", "--gpu", "a6000", "--json"]
    )
    assert done.exit_code == 0, done.output
    swaps = json.loads(done.output)["stages"][DIFFFACE_SWAPS]
    graph = PROFILES["smoke"].graph()
    assert swaps["units"] == settings(graph, "release", ReleaseConfig).swap_pairs
    sampling = settings(graph, DIFFFACE_SWAPS, DiffFaceSwapsConfig).settings
    assert f"{sampling.sampled_steps} guided steps" in swaps["note"]
    passes, _ = guided_passes("world")
    alone = sampling.iterations_num * sampling.sampled_steps * passes["denoiser"]
    assert alone < swaps["tflop_each"] * 1e12 < 3 * alone


def test_what_is_assumed_and_unknown_is_printed(tiny: dict) -> None:
    assert any("35%" in line for line in tiny["assumptions"])
    assert any("float32" in line for line in tiny["assumptions"])
    assert any("face_landmarker" in line for line in tiny["unknown"])
    # the mesh runs on the CPU, where the annotation bench measured it
    assert tiny["stages"]["landmarks"]["cpu_hours_on_2_cores"] > 0
    assert tiny["tokens"] == {"text": 4, "image": 16, "condition": 16, "all": 36}


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    done = CliRunner().invoke(app, ["cost", "--gpu", "abacus"])
    assert done.exit_code == 2
    assert "h100" in done.output
    done = CliRunner().invoke(app, ["cost", "--profile", "huge"])
    assert done.exit_code == 2
    assert "flux-krea" in done.output
    done = CliRunner().invoke(app, ["cost", "--gpu", "cpu", "--sustained", "0.4"])
    assert done.exit_code == 2


def test_people_get_tables(tiny: dict, capsys: pytest.CaptureFixture[str]) -> None:
    show(tiny)
    printed = capsys.readouterr().out
    for words in ("2 x a6000", "pseudo_triplets", "condition once", "Assumptions", "Unknown"):
        assert words in printed
