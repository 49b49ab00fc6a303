"""`orchard doctor`: what this machine lacks, and the command that mends it."""

from __future__ import annotations

import typer

from pipeline.doctor import run_doctor
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    DeviceOption,
    JsonOption,
    LakeOption,
    ProfileOption,
)
from pipeline.profiles import profile as find_profile


def doctor_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Load every provider for real: packages, system libraries, weights, detectors, device.

    Then say of each stage what it would run on: library, device and number format.
    Exit code 1 when something a profile needs is missing; each line then names the remedy.
    """
    chosen = find_profile(profile)
    raise typer.Exit(run_doctor(json, chosen.weights(), lake, device, chosen.graph()))
