"""A training through the lake gives one checkpoint, whether one, two or three processes share its steps.

All are forks of one process that loads the libraries, started by torchrun's own agent, and read every batch
from the lake, as large trainings do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from assets.training import TrainingConfig, checkpoint_folder
from assets.training_rows import need_artifact
from models.swap.sampling_config import SamplingConfig
from models.swap.training_recipe import TrainingRecipe
from resources.lake.lake import Lake
from resources.tracking.layout import LOSSES_FILE

# plain SGD: Adam divides by the gradient's own size, rounding noise of a vanishing one included
RECIPE = TrainingRecipe(
    steps=6,
    batch_size=6,
    optimiser="sgd",
    learning_rate=0.1,
    momentum=0.9,
    identity_loss_weight=0.0,
    lpips_weight=0.0,
    checkpoint_interval=2,
    validation_interval=None,
)

SCRIPT = """
    import multiprocessing, os, sys
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[1])
    import accelerate, models.swap.training
    from small_orchard import orchard
    from assets import training_rows
    from assets.stage import StageGraph
    from assets.teacher import teacher_stage
    from assets.together import train_together
    from assets.training import TrainingConfig
    from resources.lake import failpoints
    from resources.lake.lake import Lake

    training_rows.IN_MEMORY_BYTES = 0

    def train(lake, die_at=0):
        if die_at and os.environ["RANK"] == "1":
            failpoints.arm(f"mid_training:{die_at}")
        teacher = teacher_stage(TrainingConfig.model_validate_json(sys.argv[2]))
        graph = orchard()
        graph = StageGraph(tuple(teacher if stage.name == "teacher" else stage for stage in graph.stages))
        train_together(Lake.open(lake), graph, teacher, device="cpu", report=lambda text: None)

    def launch(processes, *arguments):
        agent = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d",
                             rdzv_endpoint="localhost:0", run_id=str(processes), max_restarts=0,
                             start_method="fork")
        elastic_launch(agent, train)(*arguments)

    root = sys.argv[3]
    for processes in (1, 2, 3):
        launch(processes, f"{root}/{processes}")
    try:
        launch(3, f"{root}/killed", 5)  # a step behind the last state, in the middle of an epoch of fifteen
    except ChildFailedError as error:
        print("ended:", error.get_first_failure()[1].message)
    launch(2, f"{root}/killed")
"""


@pytest.fixture(scope="module")
def trained(
    lake: Lake, small_orchard, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Lake], str]:
    """Lakes with a teacher of one, two and three processes, and of two that went on for three."""
    root = tmp_path_factory.mktemp("ranks")
    names = ("1", "2", "3", "killed")
    for name in names:
        shutil.copytree(lake.uri, root / name)
    config = small_orchard.orchard()["teacher"].config
    assert isinstance(config, TrainingConfig)
    config = config.model_copy(update={"recipe": RECIPE, "validation": SamplingConfig(inversion=None)})
    script = root / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    crash = str(Path(__file__).parents[2] / "crash")
    done = subprocess.run(
        [sys.executable, str(script), crash, config.model_dump_json(), str(root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: Lake.open(root / name) for name in names}, done.stdout


def _weights(lake: Lake) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folder(lake, need_artifact(lake, "teacher")) / "default.safetensors")


def _losses(lake: Lake) -> list[float]:
    location = str(need_artifact(lake, "teacher").metadata["losses"])
    assert location.endswith(LOSSES_FILE)
    return [json.loads(line)["total"] for line in (Path(lake.uri) / location).read_text().splitlines()]


@pytest.mark.parametrize("processes", ["2", "3"])
def test_several_processes_train_the_checkpoint_of_one(trained, processes: str) -> None:
    lakes, _ = trained
    one, several = _weights(lakes["1"]), _weights(lakes[processes])
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=1e-6)
    moved = [name for name in one if name.endswith("lora_B.weight") and float(one[name].abs().max()) > 1e-4]
    assert moved  # adapters start at zero here, so they have learnt
    assert _losses(lakes[processes]) == pytest.approx(_losses(lakes["1"]), rel=1e-5)


def test_one_killed_process_ends_all_and_another_number_goes_on(trained) -> None:
    lakes, said = trained
    assert "ended:" in said
    assert "Signal 9 (SIGKILL)" in said
    one, resumed = _weights(lakes["1"]), _weights(lakes["killed"])
    for name, value in one.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6)
    assert _losses(lakes["killed"]) == pytest.approx(_losses(lakes["1"]), rel=1e-5)
