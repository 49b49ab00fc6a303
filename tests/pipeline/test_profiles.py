"""Profiles at full size: what they use, and that they are refused before any work, in one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from assets.latents import LatentsConfig
from assets.release import ReleaseConfig
from assets.training import TrainingConfig
from pipeline.cli import app
from pipeline.doctor import check_weight
from pipeline.doctor_probes import PROBES
from pipeline.profiles import PROFILES, profile
from resources.lake.consent import Consent
from resources.lake.errors import LakeError
from resources.lake.ingest import ingest
from resources.lake.lake import Lake
from resources.weights.entries import HubFolderWeight
from resources.weights.errors import WeightError
from resources.weights.ledger import Trust, now, record_trust
from resources.weights.licences import accept
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import folder_sha256, resolve

PACKAGED = {"centerface", "dlib_face_recognition", "face_landmarker", "selfie_segmenter"}
PACKAGED |= {"tiny_base", "tiny_denoiser", "world_embedder", "world_gaze", "world_parser"}
PARTS = ("", "_codec", "_text")
BASES = {f"{name}{part}" for name in ("flux_krea", "flux_schnell") for part in PARTS} | {"schnell_identity"}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """One photograph of nobody, and an empty folder of weights."""
    monkeypatch.setenv("ORCHARD_WEIGHTS", str(tmp_path / "weights"))
    photo = tmp_path / "photos" / "anna" / "0001.png"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64), (120, 100, 90)).save(photo)
    lake = Lake.open(tmp_path / "lake", create=True)
    ingest(lake, tmp_path / "photos", consent=Consent.SYNTHETIC)
    return lake


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def error_of(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, WeightError), result.output
    return str(result.exception)


def test_the_paper_and_the_clean_profile_use_what_they_should() -> None:
    krea, schnell = profile("flux-krea"), profile("flux-schnell")
    assert {"reconstruction_resnet50", "face_model", "face_parser", "visible_face"} < set(krea.weights())
    assert {"clip_vit_l14", "aesthetic_head", "antelopev2", "eva_clip", "pulid_flux"} < set(krea.weights())
    assert all(MANIFEST[role].commercial_ok for role in schnell.weights())
    assert not all(MANIFEST[role].commercial_ok for role in krea.weights())
    floors = {}
    for each in (krea, schnell):
        graph = each.graph()
        latents, release = graph["latents"].config, graph["release"].config
        trained = graph["teacher"].config
        assert isinstance(latents, LatentsConfig)
        assert isinstance(trained, TrainingConfig)
        assert isinstance(release, ReleaseConfig)
        assert (latents.condition.size, latents.latent_size) == (512, 1024 * 64)
        assert latents.condition.image.landmark_radius is None  # the paper's dots
        identity = next(c for c in graph.row_stages()[4].outputs if c.name == "identity_embedding")
        assert identity.type.list_size == trained.base.model.identity.embedding_dim
        floors[each.name] = release.min_aesthetic_score
    # 5.1 is a score of the paper's scorer; the clean profile's is another
    assert floors == {"flux-krea": 5.1, "flux-schnell": 0.0}


def test_a_swap_asks_of_its_photographs_what_the_profile_needs() -> None:
    source = {name: PROFILES[name].graph().needed_for(["identity_embedding"]).names for name in PROFILES}
    assert source["tiny"] == source["flux-schnell"] == ("landmarks", "identity_embedding")
    assert source["flux-krea"] == ("landmarks", "masks", "identity_embedding")  # masked sources
    for each in PROFILES.values():
        target = each.graph().needed_for(["latents", "faces"]).names
        assert target == ("landmarks", "iris", "masks", "condition", "latents")


def test_every_role_of_a_profile_has_a_probe_but_the_published_bases() -> None:
    roles = {role for each in PROFILES.values() for role in each.weights()}
    assert roles - set(PROBES) == BASES


def test_commercial_use_refuses_the_paper_before_any_work(lake: Lake) -> None:
    assert run("weights", "licences", "--use", "commercial").exit_code == 0
    columns = lake.faces.snapshot().columns
    for command in ("plan", "status", "run"):
        told = error_of(command, "--profile", "flux-krea", "--lake", lake.uri)
        assert "may not be used commercially" in told
        assert "antelopev2 (InsightFace model licence" in told
        assert "such as flux-schnell" in told
    assert "may not be used commercially" in error_of("weights", "pull", "--profile", "flux-krea")
    assert lake.faces.snapshot().columns == columns


def test_commercial_use_admits_the_clean_profile(lake: Lake) -> None:
    accepted = run("weights", "licences", "--use", "commercial", "--profile", "flux-schnell")
    assert accepted.exit_code == 0, accepted.output
    told = error_of("plan", "--profile", "flux-schnell", "--lake", lake.uri)
    roles = profile("flux-schnell").weights()
    lacking = [role for role in roles if role not in PACKAGED]
    assert {"flux_schnell", "flux_schnell_codec", "flux_schnell_text", "schnell_identity"} < set(lacking)
    assert f"{len(lacking)} of the {len(roles)} model files are not here: {', '.join(lacking)}" in told
    assert "orchard weights pull --profile flux-schnell" in told


def test_what_lacks_is_one_message_that_names_all(lake: Lake) -> None:
    told = error_of("plan", "--profile", "flux-krea", "--lake", lake.uri)
    for role in ("antelopev2", "face_model", "face_parser", "flux_krea", "reconstruction_resnet50"):
        assert role in told
    assert "orchard weights licences --use research --profile flux-krea" in told
    assert run("weights", "licences", "--use", "research", "--profile", "flux-krea").exit_code == 0
    told = error_of("plan", "--profile", "flux-krea", "--lake", lake.uri)
    lacking = set(profile("flux-krea").weights()) - PACKAGED
    assert f"{len(lacking)} of the" in told
    assert all(role in told for role in lacking)
    for role in lacking:
        check, path = check_weight(role)
        assert not check.ok
        assert path is None
        assert "orchard weights pull" in check.remedy


def test_pull_says_what_each_wants_and_goes_on(lake: Lake) -> None:
    run("weights", "licences", "--use", "research", "--accept", "face_model")
    result = run("weights", "pull", "face_model", "sface", "centerface")
    assert isinstance(result.exception, WeightError)
    assert "2 of 3 model files are not here: face_model, sface" in str(result.exception)
    assert "register for the Basel Face Model 2009" in result.stderr
    assert "OpenCV's model zoo" in result.stderr
    assert "centerface: " in result.stdout


def test_stages_whose_weights_are_here_run_without_the_base(lake: Lake) -> None:
    where = ("--profile", "flux-schnell", "--lake", lake.uri, "--json")
    done = run("run", "landmarks", "iris", *where)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["computed_rows"] == {"landmarks": 1, "iris": 1}
    stages = json.loads(run("status", "iris", *where).stdout)["stages"]
    assert set(stages) == {"faces", "landmarks", "iris"}
    assert stages["landmarks"]["reasons"] == {"no_face": 1}
    assert "latent_target" not in lake.faces.snapshot().columns


def test_a_base_without_trained_identity_parts_is_refused_before_any_work(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX.1-schnell has no published identity attention: it encodes, and neither trains nor swaps."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "hub" / "models--black-forest-labs--FLUX.1-schnell" / "snapshots" / commit
    for part in PARTS:
        entry = MANIFEST[f"flux_schnell{part}"]
        assert isinstance(entry, HubFolderWeight)
        for pattern in entry.files:
            file = folder / pattern.replace("*", "a")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"{}")
        digest = folder_sha256(folder, entry)
        record_trust(entry.role, Trust(sha256=digest, size=1, revision=commit, on=now()))
        accept([entry], "commercial")
    schnell = ("--profile", "flux-schnell", "--lake", lake.uri)
    assert run("plan", "latents", *schnell).exit_code == 0
    assert run("plan", "prompt_embeddings", *schnell).exit_code == 0
    assert "schnell_identity" in error_of("plan", "teacher", *schnell)
    with pytest.raises(WeightError, match=r"nobody has published identity attention for FLUX\.1-schnell"):
        resolve("schnell_identity")


def test_a_lake_of_another_profile_is_refused(lake: Lake) -> None:
    profile("tiny").graph().prepare(lake)
    for name in ("flux-krea", "flux-schnell"):
        with pytest.raises(LakeError, match="Use a lake of its own for each profile"):
            profile(name).graph().prepare(lake)
