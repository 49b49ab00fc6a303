"""Train one model in several processes: `python -m pipeline.train_worker`, started by a launcher.

    accelerate launch --multi_gpu --num_processes 4 -m pipeline.train_worker --stage teacher
    torchrun --nnodes 2 --nproc-per-node 8 ... -m pipeline.train_worker --stage teacher --lake s3://...
    torchrun --nproc-per-node 2 -m pipeline.train_worker --stage teacher --device cpu

The result is what `orchard run` of that stage makes in one process, up to rounding: the recipe's batch is
shared among the processes. On several machines a lake in a folder must be a shared one; one on an object
store need not. (`accelerate launch --cpu` starts its processes by MPI; torchrun needs none.)
"""

from __future__ import annotations

import argparse
import os
import sys

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
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--force", action="store_true", help="train even where nothing is stale")
    chosen = parser.parse_args(argv)
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


if __name__ == "__main__":
    sys.exit(main())
