"""`orchard weights` as a user runs it, with an empty folder of weights of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from resources.weights.errors import WeightError
from resources.weights.tables import read_table


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ORCHARD_WEIGHTS", str(tmp_path / "weights"))

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["weights", *arguments])

    return invoke


def error_of(result: Any) -> str:
    assert isinstance(result.exception, WeightError), result.output
    return str(result.exception)


def test_list_says_of_every_weight_whether_it_is_here(run: Any) -> None:
    shown = json.loads(run("list", "--json").stdout)
    state = {row["role"]: row["state"] for row in shown["weights"]}
    assert state["centerface"] == state["tiny_base"] == state["world_embedder"] == "here"
    assert state["eva_clip"] == "not pulled"
    assert state["face_parser"] == "licence not accepted"
    assert shown["use"] is None


def test_the_cpu_profiles_ask_nothing(run: Any) -> None:
    assert run("verify", "--profile", "tiny").exit_code == 0
    assert run("pull", "--profile", "tiny").exit_code == 0


def test_from_refusal_to_a_converted_file(run: Any, tmp_path: Path) -> None:
    """Licence, file, hash, conversion, tensors: each refusal names the next step."""
    role, folder = "aesthetic_head", tmp_path / "weights" / "aesthetic_head"
    told = error_of(run("pull", role))
    assert "there is no file at" in told
    assert "improved-aesthetic-predictor" in told
    folder.mkdir(parents=True)
    file = folder / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save({name: torch.zeros(shape) for name, shape in read_table(role).items()}, file)
    assert "stated are 3714759" in error_of(run("pull", role))
    checked = run("verify", role)
    assert checked.exit_code == 1
    assert "is not here, or was never converted" in checked.stdout
    made = run("convert", role, str(file), "--to", str(tmp_path))
    assert made.exit_code == 0, made.output
    assert (tmp_path / "sac+logos+ava1-l14-linearMSE.safetensors").is_file()


def test_a_licence_is_shown_accepted_and_recorded(run: Any) -> None:
    assert "was not accepted yet" in error_of(run("pull", "face_parser"))
    shown = run("licences")
    assert "face_parser: MIT (code)" in shown.stdout
    assert "intended use: not set" in shown.stdout
    assert run("licences", "--accept", "face_parser").exit_code == 2
    assert run("licences", "--use", "research", "--accept", "face_parser").exit_code == 0
    ledger = json.loads(run("licences", "--json").stdout)
    assert ledger["use"] == "research"
    assert list(ledger["accepted"]) == ["face_parser"]
    assert "there is no file at" in error_of(run("pull", "face_parser"))
    assert run("licences", "--use", "commercial").exit_code == 0
    assert "does not allow commercial use" in error_of(run("pull", "face_parser"))


def test_a_missing_face_model_names_who_hands_it_out(run: Any) -> None:
    run("licences", "--use", "research", "--accept", "face_model")
    told = error_of(run("pull", "face_model"))
    assert "register for the Basel Face Model 2009" in told


def test_the_networks_of_diffface_are_supplied_by_the_user(run: Any, tmp_path: Path) -> None:
    assert "(CC-BY-NC-4.0) was not accepted yet" in error_of(run("pull", "diffface_unet"))
    roles = ("diffface_unet", "adm_unet", "gaze_estimator")
    run("licences", "--use", "research", *(part for role in roles for part in ("--accept", role)))
    told = [error_of(run("pull", role)) for role in roles]
    assert all("there is no file at" in text for text in told)
    assert "take Model.pt out of checkpoints.zip" in told[0]
    assert "256x256_diffusion_uncond.pt from the links in openai/guided-diffusion's README" in told[1]
    assert "take GazeEstimator.pt out of checkpoints.zip" in told[2]
    folder = tmp_path / "weights" / "adm_unet"
    folder.mkdir(parents=True)
    torch.save({"out.2.bias": torch.zeros(6)}, folder / "256x256_diffusion_uncond.pt")
    assert "stated are 2211383297" in error_of(run("pull", "adm_unet"))
    assert run("licences", "--use", "commercial").exit_code == 0
    assert "does not allow commercial use" in error_of(run("pull", "diffface_unet"))


def test_unknown_names_are_refused(run: Any) -> None:
    assert "no such role" in error_of(run("pull", "no_such"))
    assert run("pull").exit_code == 2
    assert run("pull", "--profile", "no_such").exit_code == 2
    assert run("convert", "pulid_flux", __file__).exit_code == 2
