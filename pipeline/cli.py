"""The `orchard` command."""

from __future__ import annotations

import sys

import typer

from assets.batches import StageFault
from pipeline.commands.bench import bench_app
from pipeline.commands.check import check_command
from pipeline.commands.cost import cost_command
from pipeline.commands.dagster import dagster_app
from pipeline.commands.demo import demo_command
from pipeline.commands.diffface import diffface_command
from pipeline.commands.doctor import doctor_command
from pipeline.commands.export import export_command
from pipeline.commands.forget import forget_command
from pipeline.commands.gc import gc_command
from pipeline.commands.ingest import ingest_command
from pipeline.commands.plan import plan_command, status_command
from pipeline.commands.ray import ray_app
from pipeline.commands.recipes import recipes_command
from pipeline.commands.repair import repair_command
from pipeline.commands.report import report_command
from pipeline.commands.run import run_command
from pipeline.commands.swap import swap_command
from pipeline.commands.ui import ui_command
from pipeline.commands.weights import weights_app
from pipeline.commands.world import world_app
from resources.compute.device import DeviceUnavailable
from resources.lake.errors import LakeError, clear_read_errors, clear_storage_errors
from resources.photos.layouts import LayoutError
from resources.photos.pairs import SwapPairsError
from resources.weights.errors import WeightError

EXPECTED_ERRORS = (LakeError, StageFault, DeviceUnavailable, WeightError, LayoutError, SwapPairsError)
"""Errors whose message says what to do; they end the command without a traceback."""

app = typer.Typer(
    name="orchard",
    help="Grows face-swapping models: a Dagster DAG over a Lance dataset.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ingest")(ingest_command)
app.command("plan")(plan_command)
app.command("status")(status_command)
app.command("run")(run_command)
app.command("recipes")(recipes_command)
app.command("check")(check_command)
app.command("swap")(swap_command)
app.command("diffface")(diffface_command)
app.command("report")(report_command)
app.command("export")(export_command)
app.command("forget")(forget_command)
app.command("gc")(gc_command)
app.command("repair")(repair_command)
app.command("cost")(cost_command)
app.command("doctor")(doctor_command)
app.add_typer(dagster_app, name="dagster")
app.add_typer(ray_app, name="ray")
app.add_typer(weights_app, name="weights")
app.add_typer(world_app, name="world")
app.add_typer(bench_app, name="bench")
app.command("ui")(ui_command)
app.command("demo")(demo_command)


def main() -> None:
    """Run the command line; expected errors become one line on standard error and exit code 1."""
    try:
        with clear_storage_errors("the lake"), clear_read_errors("the lake"):
            app()
    except EXPECTED_ERRORS as error:
        typer.echo(f"orchard: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
