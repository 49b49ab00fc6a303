"""Train one model in several processes: `python -m pipeline.train_worker`, started by a launcher.

    accelerate launch --multi_gpu --num_processes 4 -m pipeline.train_worker --stage teacher
    torchrun --nnodes 2 --nproc-per-node 8 ... -m pipeline.train_worker --stage teacher --lake s3://...
    torchrun --nproc-per-node 2 -m pipeline.train_worker --stage teacher --device cpu
    python -m pipeline.train_worker --launch ray --workers 8 --gpus-per-worker 1 --stage teacher --lake s3://...

With `--launch ray` the processes are actors of a Ray cluster (`--ray-address`, or ORCHARD_RAY_ADDRESS; else
this machine's own), of which this process is the driver.

The result is what `orchard run` of that stage makes in one process, up to rounding: the recipe's batch is
shared among the processes. On several machines a lake in a folder must be a shared one; one on an object
store need not. (`accelerate launch --cpu` starts its processes by MPI; torchrun needs none.)
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from assets.stage import ArtifactStage
from assets.together import train_together
from pipeline.options import DEFAULT_LAKE, DEFAULT_PROFILE, UsageError, find_view, open_graph, open_lake
from resources.lake.errors import LakeError

TRAINED = ("teacher", "student")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when the checkpoint is there."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train_worker", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--lake", default=os.environ.get("ORCHARD_LAKE", DEFAULT_LAKE))
    parser.add_argument("--profile", default=os.environ.get("ORCHARD_PROFILE", DEFAULT_PROFILE))
    parser.add_argument("--stage", required=True, choices=TRAINED)
    parser.add_argument("--recipe", help="of this recipe, which lives in the lake; else of the default one")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps", "xpu"))
    parser.add_argument("--force", action="store_true", help="train even where nothing is stale")
    ray = parser.add_argument_group("launch by Ray")
    ray.add_argument("--launch", choices=("ray",), help="start the processes on a Ray cluster")
    ray.add_argument("--workers", type=int, default=1, help="processes that train")
    ray.add_argument("--gpus-per-worker", type=int, default=0, help="GPUs of each, whole ones")
    ray.add_argument("--cpus-per-worker", type=float, default=1, help="cores of each")
    ray.add_argument("--placement", choices=("pack", "spread"), default="pack", help="on few nodes, or many")
    ray.add_argument("--ray-address", help="host:port of an existing cluster")
    chosen = parser.parse_args(argv)
    if chosen.launch:
        return _launch(chosen)
    try:
        lake, name = open_lake(chosen.lake), find_view(chosen.profile, chosen.recipe).own(chosen.stage)
        graph = open_graph(lake, chosen.profile, [name])
        stage = graph[name]
        assert isinstance(stage, ArtifactStage)  # both that can be chosen are
        result = train_together(lake, graph, stage, device=chosen.device, force=chosen.force)
    except (LakeError, UsageError) as error:
        print(error, file=sys.stderr)
        return 1
    if result is not None:
        made = "made" if result.made else "fresh already, nothing was computed:"
        print(f"{name} {made} {result.artifact.location} in {result.seconds:.1f} s")
    return 0


def _launch(chosen: argparse.Namespace) -> int:
    """Have actors of a Ray cluster run this command without `--launch`."""
    from pipeline import train_worker  # by its name, which every node knows, and not as this program
    from resources.compute.device import DeviceUnavailable
    from resources.compute.engine_choice import choose_engine
    from resources.compute.ray_cluster import connect
    from resources.compute.ray_ranks import RankFailed, run_ranks

    lake = chosen.lake if "://" in chosen.lake else str(Path(chosen.lake).resolve())
    arguments = ["--lake", lake, "--profile", chosen.profile, "--stage", chosen.stage]
    arguments += ["--device", chosen.device] + (["--force"] if chosen.force else [])
    arguments += ["--recipe", chosen.recipe] if chosen.recipe else []
    try:
        engine = choose_engine("ray", chosen.ray_address)
        connect(engine.address, "orchard-training", auth=engine.auth)
        run_ranks(
            train_worker.main,
            arguments,
            chosen.workers,
            gpus_per_worker=chosen.gpus_per_worker,
            cpus_per_worker=chosen.cpus_per_worker,
            placement=chosen.placement,
            environment={name: value for name, value in os.environ.items() if name.startswith("ORCHARD_")},
        )
    except (DeviceUnavailable, RankFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
