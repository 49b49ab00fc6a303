"""`orchard ui`: Dagster's webserver and daemon on this machine."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from pipeline.dagster_home import dagster_home, storage_place
from pipeline.dagster_sync import make_ready
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    LakeOption,
    ProfileOption,
    open_graph,
    open_lake,
    project_root,
)

LOOPBACK = "127.0.0.1"


def ui_command(
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on the loopback interface.")] = 3000,
    gpu_slots: Annotated[
        int, typer.Option(min=1, help="Steps of the gpu pool that run at once on this machine.")
    ] = 1,
) -> None:
    """Open the Dagster UI of one lake: materialise partitions, start backfills, watch the daemon.

    It listens on the loopback interface only: Dagster has no login, and whoever reaches it can start runs.
    """
    opened = open_lake(lake)
    graph = open_graph(opened, profile)
    make_ready(opened, graph, gpu_slots)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home()),
        "ORCHARD_LAKE": opened.uri,
        "ORCHARD_PROFILE": profile,
    }
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded"]
    command += ["-m", "dagster", "dev", "-m", "pipeline.definitions"]
    command += ["-d", str(project_root()), "-h", LOOPBACK, "-p", str(port)]
    typer.echo(f"http://{LOOPBACK}:{port}  lake {opened.uri}, profile {profile}")
    typer.echo(f"Dagster's runs and events: {storage_place(dagster_home())}")
    # a shell script's `orchard ui &` hands down ignored interrupts, and Dagster then ignores `kill` as well
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Dagster warns of any dagster.yaml in the current folder that is not its home's
    os.chdir(dagster_home())
    os.execvpe(command[0], command, environment)
