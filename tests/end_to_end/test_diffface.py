"""`orchard diffface`, `orchard swap --method diffface`: arguments arrive, and what changes and what stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import render
from pipeline.cli import app
from resources.compute.device import DeviceUnavailable
from resources.lake.errors import LakeError
from resources.photos.decoding import DecodeLimits, decode_upright
from resources.photos.marking import read_mark

CONSENT = "rendered faces, nobody is shown"
SIDE = 192
SMALL = ("--timestep_respacing", "4", "--skip_timesteps", "1", "--masking_threshold", "1")
SHORT = (*SMALL, "--iterations_num", "1", "--aug_num", "2", "--loss_weight", "96000")
"""Three steps of one repeat, guided so strongly that every argument shows after so few."""

Diffface = Callable[..., Any]


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders data/src and data/targ with two portraits each, whose names agree in order alone."""
    root = tmp_path_factory.mktemp("portraits")
    faces = render(sample_identities(3, 4), sample_attributes(23, 4, crops=("portrait",), occluded=0.0), SIDE)
    for number, name in enumerate(("src/002", "targ/b", "src/001", "targ/a")):
        path = root / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images_NHWC[number]).save(path)
    return root / "data"


@pytest.fixture
def diffface(portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diffface:
    """The command in a folder of its own, on one pair, where there is no lake."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHARD_PROFILE", "smoke")

    def run(*arguments: object, files: tuple[str, ...] = ("src/001.png", "targ/a.png"), code: int = 0) -> Any:
        places = [str(portraits / name) for name in files]
        line = ["diffface", *places, *map(str, arguments), "--consent", CONSENT, "--json"]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout) if code == 0 else done

    return run


def pixels(path: Path | str) -> np.ndarray:
    return decode_upright(Path(path).read_bytes(), DecodeLimits(min_side=1))


@pytest.fixture(scope="module")
def plain(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The swap of one pair with `SHORT`."""
    folder = tmp_path_factory.mktemp("plain")
    pair = [str(portraits / name) for name in ("src/001.png", "targ/a.png")]
    line = ["diffface", *pair, *SHORT, "--device", "cpu", "--profile", "smoke", "--output_path", str(folder)]
    done = CliRunner().invoke(app, [*line, "--consent", CONSENT])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "1 swaps of 1 pairs, mean identity distance" in done.stdout
    return pixels(folder / "0_0.png")


@pytest.mark.parametrize(
    ("flags", "told", "same"),
    [
        (("--batch-size", "2", "--iterations_num", "2"), {"batch_size": 2, "iterations_num": 2}, True),
        (("--skip_timesteps", "2"), {"skip_timesteps": 2}, False),
        (("--ddim",), {"ddim": True}, False),
        (("--timestep-respacing", "2,3"), {"timestep_respacing": "2,3"}, False),
        (("--no_enforce_background",), {"no_enforce_background": True}, False),
        (("--aug-num", "1"), {"aug_num": 1}, False),
        (("--seed", "7"), {"seed": 7}, False),
        (("--masking_threshold", "0"), {"masking_threshold": 0}, False),
        (("--loss-weight", "0"), {"loss_weight": 0.0}, False),
        (("--device", "cpu"), {"device": "cpu"}, True),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_argument_arrives_and_is_seen_in_the_picture(
    diffface: Diffface,
    plain: np.ndarray,
    flags: tuple[str, ...],
    told: dict[str, Any],
    same: bool,
) -> None:
    said = diffface(*SHORT, "--no-panels", *flags)
    assert {name: said["settings"][name] for name in told} == told
    assert said["settings"]["seed"] == told.get("seed", 404)
    differs = np.abs(pixels("output/0_0.png").astype(int) - plain).max()
    assert (differs <= 1) == same


def test_repeats_ranks_and_figures_lie_where_the_published_program_puts_them(
    diffface: Diffface, portraits: Path
) -> None:
    said = diffface(
        *SMALL, "--aug_num", "1", "--output_path", "made/here", "-o", "look.png", "--iterations-num", 2
    )
    (pair,) = said["pairs"]
    files = {path.relative_to("made/here").as_posix() for path in Path("made/here").rglob("*.png")}
    digits = [f"{int(distance * 10_000 + 1e-6):05d}" for distance in pair["identity_distances"]]
    assert {"0_0.png", "0_1.png", "0/look_i_0_b_0.png", "0/look_i_1_b_0.png"} < files
    assert {f"Rank0/{name}.png" for name in digits} <= files
    assert sum(name.startswith("0/look_i_0_b_0_t_") for name in files) >= 3
    assert {str(Path("made/here", name)) for name in files} == {name for own in pair["files"] for name in own}
    best = pair["ranking"][0]
    assert pair["identity_distances"][best] == min(pair["identity_distances"])
    assert said["mean_identity_distance"] == pytest.approx(np.mean(pair["identity_distances"]), abs=1e-5)
    assert (pixels(f"made/here/Rank0/{digits[1]}.png") == pixels("made/here/0_1.png")).all()
    figure = pixels("made/here/0/look_i_1_b_0.png")
    assert figure.shape == (32, 6 * 32, 3)
    source, target, mask, _, _, swap = np.split(figure, 6, axis=1)
    assert (swap == pixels("made/here/0_1.png")).all()
    assert (swap[mask[..., 0] == 0] == target[mask[..., 0] == 0]).all()
    assert (source != target).any()
    for name in files:
        mark = read_mark(Path("made/here", name).read_bytes())
        assert mark is not None
        assert (mark.stage, mark.consent, mark.model_id) == ("diffface", CONSENT, said["model_id"])
        assert mark.source_image_id.startswith("001.png sha256:")


def test_folders_of_the_published_program_are_paired_by_position(
    diffface: Diffface, portraits: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(portraits, target_is_directory=True)
    line = ["diffface", *SHORT, "--no-panels", "--consent", CONSENT]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "paired by position: 0: 001.png onto a.png, 1: 002.png onto b.png" in done.stderr
    assert {path.name for path in Path("output").glob("*.png")} == {"0_0.png", "1_0.png"}
    both = [pixels(f"output/{number}_0.png") for number in (0, 1)]
    assert (both[0] != both[1]).any()


def test_compat_repeats_all_faults(diffface: Diffface, plain: np.ndarray) -> None:
    said = diffface(*SHORT, "--no-panels", "--compat")
    assert all(said["settings"]["compat"].values())
    assert (pixels("output/0_0.png") != plain).any()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--masking_threshold", "75"), "must be below 75"),
        (("--timestep_respacing", "ddim"), "must be a number of steps"),
        (("--output_file", "swap.jpg"), "must be the name of a PNG file"),
        (("--batch_size", "0"), "--batch_size"),
        (("--gpu_id", "0", "--device", "cpu"), "give one of them"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    diffface: Diffface, flags: tuple[str, ...], words: str
) -> None:
    assert words in " ".join(diffface(*flags, code=2).output.replace("│", " ").split())


def test_a_gpu_that_is_absent_is_an_error(diffface: Diffface, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    failed = diffface(*SHORT, "--gpu_id", "1", code=1)
    assert isinstance(failed.exception, DeviceUnavailable)
    assert "cuda:1 was asked for" in str(failed.exception)


def test_a_profile_without_the_stage_is_refused(diffface: Diffface) -> None:
    failed = diffface(*SHORT, "--profile", "flux-schnell", code=1)
    assert isinstance(failed.exception, LakeError)
    assert "flux-schnell has no stage diffface_swaps" in str(failed.exception)


def test_consent_is_asked_for(portraits: Path) -> None:
    pair = [str(portraits / name) for name in ("src/001.png", "targ/a.png")]
    done = CliRunner().invoke(app, ["diffface", *pair])
    assert done.exit_code == 2
    assert "on what basis" in done.output


def test_a_portrait_without_a_face_fails_alone(diffface: Diffface, portraits: Path, tmp_path: Path) -> None:
    for side, other in (("src", "001.png"), ("targ", "a.png")):
        folder = tmp_path / side
        folder.mkdir()
        (folder / "1.png").write_bytes((portraits / side / other).read_bytes())
        Image.new("RGB", (96, 96), (90, 90, 90)).save(folder / "0.png")
    failed = diffface(*SHORT, files=(str(tmp_path / "src"), str(tmp_path / "targ")), code=1)
    first, second = json.loads(failed.stdout)["pairs"]
    assert (first["reason"], len(second["files"])) == ("no_face", 1)


def test_in_photographs_all_but_the_chosen_face_stays_to_the_bit(
    portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHARD_LAKE", str(tmp_path / "no lake"))
    two = np.concatenate([pixels(portraits / "targ" / name) for name in ("a.png", "b.png")], axis=1)
    Image.fromarray(two).save(tmp_path / "two.png")
    line = ["swap", str(portraits / "src/001.png"), str(tmp_path / "two.png"), "--method", "diffface"]
    line += [
        "--faces",
        "index:1",
        "--save-mask",
        "--grid",
        "--consent",
        CONSENT,
        "--profile",
        "smoke",
        "--json",
    ]
    results = {}
    for name, extra in (
        ("plain", ()),
        ("again", ()),
        ("seeded", ("--seed", "5")),
        ("freed", ("--diffface", "masking_threshold=0")),
    ):
        done = CliRunner().invoke(app, [*line, "-o", str(tmp_path / f"{name}.png"), *extra])
        assert done.exit_code == 0, (done.output, done.exception)
        results[name] = pixels(tmp_path / f"{name}.png")
    mask = pixels(tmp_path / "plain_mask.png")[..., 0] > 0
    different = (results["plain"] != two).any(axis=2)
    assert not different[~mask].any()
    assert not mask[:, :SIDE].any()
    assert different[mask].mean() > 0.7
    assert (results["again"] == results["plain"]).all()
    for name in ("seeded", "freed"):
        assert (results[name] != results["plain"]).any()
    mark = read_mark((tmp_path / "plain.png").read_bytes())
    assert mark is not None
    assert mark.stage == "swap/diffface"
    assert mark.model_id.startswith("diffface-")
    assert not (tmp_path / "no lake").exists()
    for flags in (("--id_guidance_scale", "2"), ("--diffface", "steps=3"), ("--raw-frame",)):
        assert CliRunner().invoke(app, [*line, *flags]).exit_code == 2
