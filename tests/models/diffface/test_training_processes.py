"""Two processes of torchrun's agent train as one with the doubled batch; a killed run goes on bit for bit.

All are forks of one process that loads the libraries, which takes longer than what they do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

SCRIPT = """
    import multiprocessing, os, signal, sys
    from pathlib import Path
    import numpy as np, torch
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    from models.diffface.config import DenoiserConfig
    from models.diffface.denoiser import Denoiser
    from models.diffface.training import train_denoiser
    from models.diffface.training_data import DenoiserBatch
    from models.diffface.training_recipe import DenoiserRecipe

    torch.set_num_threads(1)
    CONFIG = DenoiserConfig(name="test", image_size=8, model_channels=8, channel_mult=(1, 2),
                            num_res_blocks=1, attention_resolutions=(4,), num_head_channels=8,
                            identity_dim=6, norm_groups=4)

    class Data:
        def draw(self, rng, batch_size):
            return rng.integers(2**60, size=(batch_size, 1))

        def read(self, choices):
            images = [np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8) for row in choices]
            who = [np.random.default_rng([*row, 1]).standard_normal(6) for row in choices]
            identity = torch.nn.functional.normalize(torch.from_numpy(np.stack(who)).float())
            return DenoiserBatch(torch.from_numpy(np.stack(images)), identity)

    def encode(images, points):
        return torch.cat([images[..., :4].mean(dim=(2, 3)), images[..., 4:].mean(dim=(2, 3))], dim=1)

    def run(folder, kill_at=0, **options):
        torch.manual_seed(0)
        denoiser = Denoiser(CONFIG)
        for value in denoiser.parameters():
            torch.nn.init.normal_(value, std=0.1)
        kept = {}

        def on_step(step, losses, average):
            kept["losses"] = losses.__dict__
            kept["gradients"] = {name: value.grad.clone() for name, value in denoiser.named_parameters()}
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_half_saved(step):
            if -step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        train_denoiser(denoiser, Data(), DenoiserRecipe(**options), folder, encode_face=encode,
                       on_step=on_step, on_half_saved=on_half_saved)
        kept["end"] = {name: value.detach().clone() for name, value in denoiser.named_parameters()}
        return kept

    def work(root):
        rank = int(os.environ.get("RANK", "0"))
        found = run(root / "run", steps=1, batch_size=8, gradient_clip=1e9, weighting="paper", seed=4)
        torch.save(found, root / f"{rank}.pt")

    def killed(folder, kill_at):
        options = {"steps": 9, "batch_size": 4, "checkpoint_interval": 3, "ema_decay": 0.9}
        found = run(folder, kill_at, learning_rate=1e-2, **options)
        torch.save(found["end"], folder / "end.pt")

    root = Path(sys.argv[1])
    fork = multiprocessing.get_context("fork")
    for folder, kill_at in (("whole", 0), ("killed", 5), ("killed", -6), ("killed", 0)):
        child = fork.Process(target=killed, args=(root / folder, kill_at))
        child.start()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if kill_at else 0), (folder, kill_at, child.exitcode)
    alone = fork.Process(target=work, args=(root / "one",))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
    agent = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d",
                         rdzv_endpoint="localhost:0", run_id="two", max_restarts=0, start_method="fork")
    elastic_launch(agent, work)(root / "two")
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("processes")
    script = root / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    for name in ("one", "two"):
        (root / name).mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root


def test_a_killed_run_goes_on_bit_for_bit(launched):
    whole, resumed = (launched / name for name in ("whole", "killed"))
    ends = [torch.load(folder / "end.pt") for folder in (whole, resumed)]
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
    assert (whole / "losses.jsonl").read_text() == (resumed / "losses.jsonl").read_text()
    assert not list(resumed.rglob(".unfinished*"))
    for part in ("weights", "optimiser", "average", "state.json"):
        last = [(folder / "resume" / "step_00000009" / part).read_bytes() for folder in (whole, resumed)]
        assert last[0] == last[1], part


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(launched):
    (alone,) = [torch.load(path) for path in sorted((launched / "one").glob("*.pt"))]
    both = [torch.load(path) for path in sorted((launched / "two").glob("*.pt"))]
    assert len(both) == 2
    assert min(alone["losses"][name] for name in ("noise", "variance_bound", "identity")) > 0
    for found in both:
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for name, gradient in alone["gradients"].items():
            largest = float(gradient.abs().max())
            assert largest > 0, name
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=0, atol=1e-4 * largest)
