"""The doctor: a healthy machine is found healthy by really loading everything, and each illness is named."""

from __future__ import annotations

import contextlib
import io
import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console
from safetensors.torch import save_file

from models.metrics.lpips import LayerWeights
from pipeline.doctor import (
    PROJECT,
    SYSTEM_LIBRARIES,
    as_json,
    as_table,
    check_device,
    check_not_installed,
    check_packages,
    check_python,
    check_system_library,
    check_weight,
    check_writable,
    fixed_requirements,
    report,
    run_doctor,
)
from pipeline.doctor_processes import Check, Job, run_probes

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("face_landmarker", "selfie_segmenter", "centerface", "dlib_face_recognition")


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    """One whole diagnosis of this machine, as the command gives it; it takes seconds."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run_doctor(True, ROLES, lake_directory=tmp_path_factory.mktemp("lake"))
    told = json.loads(printed.getvalue())
    assert told["ok"] is (code == 0)
    found = {check["name"]: Check(**check) for check in told["checks"]}
    assert len(found) == len(told["checks"])
    return found


def test_this_machine_is_healthy(checks: dict[str, Check]) -> None:
    ill = [check for check in checks.values() if not check.ok]
    assert not ill, as_json(ill)
    assert {"python", "no torchvision", "device", "browser"} <= set(checks)
    assert {f"library {name}" for name in SYSTEM_LIBRARIES} <= set(checks)
    assert {f"weights {role}" for role in ROLES} <= set(checks)


def test_providers_were_loaded_and_run(checks: dict[str, Check]) -> None:
    for role in ("face_landmarker", "selfie_segmenter", "centerface"):
        assert checks[f"provider {role}"].detail.startswith("loaded and ran")
    assert "FluxTransformer2DModel" in checks["provider flux_transformer"].detail


def test_every_needed_package_was_imported(checks: dict[str, Check]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["faces"], *extras["gen"]]:
        name = Requirement(line).name
        matching = [check for title, check in checks.items() if title.startswith(f"package {name} ")]
        assert [check.detail for check in matching] == ["imported"], name


def test_an_installed_project_gives_the_same_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_sources = {extra: {r.name for r in group} for extra, group in fixed_requirements().items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = tmp_path / "orchard_faces-9.9.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.4", f"Name: {PROJECT}", "Version: 9.9"]
    lines += [f"Requires-Dist: {line}" for line in project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {line}; extra == "{extra}"' for line in requirements]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    installed = {extra: {r.name for r in group} for extra, group in fixed_requirements().items()}
    assert installed == from_sources


def test_absent_and_old_packages_are_told_apart() -> None:
    groups = {
        "": [Requirement("no-such-package-here>=2"), Requirement("numpy<1")],
        "faces": [Requirement("no-such-face-package==1")],
        "ray": [Requirement("no-such-cluster-package==1")],
        "gen": [Requirement("numpy>=2")],
    }
    checks, jobs = check_packages(groups)
    by_name = {check.name.removeprefix("package "): check for check in checks}
    assert not by_name["no-such-package-here"].ok
    assert by_name["no-such-package-here"].remedy == "pip install 'no-such-package-here>=2'"
    assert not by_name["numpy"].ok
    assert "<1 is wanted" in by_name["numpy"].detail
    assert not by_name["no-such-face-package"].ok
    assert by_name["no-such-cluster-package"].ok
    assert "only the extra ray needs it" in by_name["no-such-cluster-package"].detail
    assert [job.argument for job in jobs] == ["numpy"]


def test_system_libraries_name_their_debian_package() -> None:
    check = check_system_library("libNoSuchThing.so.9", "libnosuchthing9")
    assert not check.ok
    assert "libNoSuchThing.so.9" in check.detail
    assert check.remedy == "apt-get install libnosuchthing9"


def test_a_forbidden_package_is_found() -> None:
    assert check_not_installed("torchvision").ok
    there = check_not_installed("rich")
    assert not there.ok
    assert there.remedy.startswith("pip uninstall rich")


def test_python_and_device() -> None:
    assert check_python().ok
    check = check_device("cuda:99")
    assert not check.ok
    assert "cuda:99 was asked for" in check.detail


def test_unknown_weights_are_reported_not_raised() -> None:
    check, path = check_weight("no_such_role")
    assert not check.ok
    assert path is None
    assert "face_landmarker" in check.remedy


def test_a_dying_and_a_hanging_probe_are_blamed_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        "orchard_dies": "import os; os.write(2, b'libFoo.so: symbol lost'); os.abort()",
        "orchard_hangs": "import time; time.sleep(600)",
        "orchard_raises": "raise OSError('libBar.so.1: cannot open shared object file')",
        "orchard_chatters": "print('a line without an end', end='')",
    }
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    order = ["json", "orchard_dies", "orchard_chatters", "orchard_hangs", "orchard_raises", "string"]
    jobs = [Job(f"import {name}", "import_module", name, f"mend {name}") for name in order]
    checks = run_probes(jobs, timeout=5)
    assert [check.name for check in checks] == [job.name for job in jobs]
    assert [check.ok for check in checks] == [True, False, True, False, False, True]
    _, died, _, hung, raised, _ = checks
    assert "exit code -6" in died.detail
    assert "symbol lost" in died.detail
    assert "did not finish within 5 s" in hung.detail
    assert raised.detail == "OSError: libBar.so.1: cannot open shared object file"
    assert [check.remedy for check in (died, hung, raised)] == [
        "mend orchard_dies",
        "mend orchard_hangs",
        "mend orchard_raises",
    ]


def test_broken_model_files_fail_their_probes(tmp_path: Path) -> None:
    file = tmp_path / "broken"
    file.write_bytes(b"not a model" * 100)
    probes = ["face_landmarker", "selfie_segmenter", "centerface", "tiny_base", "world_embedder"]
    probes += ["simswap_arcface", "ir_se50", "vgg16", "lpips_vgg"]
    checks = run_probes([Job(name, name, str(file), "replace the file") for name in probes])
    assert [(check.name, check.ok, check.remedy) for check in checks] == [
        (name, False, "replace the file") for name in probes
    ]


def test_weights_that_make_no_distance_fail_their_probe(tmp_path: Path) -> None:
    state = LayerWeights().state_dict()
    jobs = []
    for sign in (1, -1):
        path = tmp_path / f"{sign}.safetensors"
        save_file({name: sign * value.abs() for name, value in state.items()}, path)
        jobs.append(Job("lpips_vgg", "lpips_vgg", str(path), "replace the file"))
    good, bad = run_probes(jobs)
    assert (good.ok, good.detail) == (True, "loaded: 1472 weights of 5 layers")
    assert not bad.ok
    assert "holds a negative weight" in bad.detail


def test_lake_directory_need_not_exist_but_must_be_writable(tmp_path: Path) -> None:
    check = check_writable(tmp_path / "not/yet")
    assert check.ok
    assert f"will be made below {tmp_path}" in check.detail
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    check = check_writable(tmp_path / "file/lake")
    assert not check.ok
    assert "choose another directory" in check.remedy


def test_reports_show_what_fails_and_how_to_mend_it() -> None:
    checks = [
        Check("good [one]", True, "fine", "unused"),
        Check("bad", False, "broken [bits]", "pip install 'x[gen]'"),
    ]
    text = io.StringIO()
    Console(file=text, width=120).print(as_table(checks))
    shown = text.getvalue()
    assert all(
        part in shown for part in ("good [one]", "FAILS", "broken [bits]", "To mend it: pip install 'x[gen]'")
    )
    assert "unused" not in shown
    told = json.loads(as_json(checks))
    assert told["ok"] is False
    assert told["checks"][1] == {
        "name": "bad",
        "ok": False,
        "detail": "broken [bits]",
        "remedy": "pip install 'x[gen]'",
    }


def test_the_exit_code_says_whether_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    well, ill = Check("a", True, "fine"), Check("b", False, "broken", "mend b")
    for json_wanted in (True, False):
        assert report([well], json_wanted) == 0
        assert report([well, ill], json_wanted) == 1
        assert "mend b" in capsys.readouterr().out
