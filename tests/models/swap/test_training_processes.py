"""Two processes of a launcher train as one with the doubled batch, and end together; a killed one goes on.

All are forks of one process that loads the libraries, which takes longer than what they do. Those that work
together are started by torchrun's own agent, told to fork; test_training.py in tests/assets calls `torchrun`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

SCRIPT = """
    import json, multiprocessing, os, signal, sys, traceback
    from pathlib import Path
    import numpy as np, torch
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    from models.swap import config
    from models.swap.codec import PatchCodec
    from models.swap.data import TrainingBatch
    from models.swap.losses import LossNetworks
    from models.swap.training import train
    from models.swap.training_recipe import TrainingRecipe
    from models.swap.transformer import SwapTransformer

    torch.set_num_threads(1)

    class Data:
        breaks = False

        def draw(self, rng, batch_size):
            return rng.integers(2**60, size=(batch_size, 1))

        def read(self, choices):
            if self.breaks and rank == 1:
                raise OSError("the disk of process 1 is gone")
            rows = [np.random.default_rng(row).standard_normal(16 * 48 + 128) for row in choices]
            x = torch.from_numpy(np.stack(rows)).float()
            latents = x[:, :768].reshape(-1, 16, 48)
            reference = torch.eye(3)[torch.from_numpy(choices[:, 0] % 3)]
            return TrainingBatch(latents, latents * 0.5, x[:, 768:], reference)

    def step(recipe, folder, data):
        torch.manual_seed(0)
        model = SwapTransformer(config.smoke())
        model.add_lora(model.config.lora, seed=0)
        with torch.no_grad():
            for name, value in model.lora_parameters().items():
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) / 9)
        kept = {}

        def on_step(step, losses):
            kept["losses"] = losses.__dict__
            kept["gradients"] = {n: p.grad for n, p in model.lora_parameters().items()}

        networks = LossNetworks(lambda images, points: images.mean(dim=(2, 3)),
                                lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
        train(model, data, recipe, folder, codec=PatchCodec(config.smoke().codec), networks=networks,
              black_latents_LC=torch.zeros(16, 48), on_step=on_step)
        return kept

    def work(root, variants, breaks):
        global rank
        rank = int(os.environ.get("RANK", "0"))
        found = {}
        for name, options in variants.items():
            found[name] = step(TrainingRecipe(**options), root / f"run-{name}", Data())
        torch.save(found, root / f"{rank}.pt")
        if breaks:
            Data.breaks = True
            try:
                step(TrainingRecipe(**variants[breaks]), root / "run-broken", Data())
            except Exception:
                # as the interpreter of a process that was not forked does; the agent tells of whichever
                # process it sees ended first, be it the one that lost its partner
                traceback.print_exc()
                raise

    def resumable(recipe, folder, kill_at):
        def on_step(step, losses):
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        torch.manual_seed(0)
        model = SwapTransformer(config.smoke())
        result = train(model, Data(), recipe, folder, codec=PatchCodec(config.smoke().codec),
                       black_latents_LC=torch.zeros(16, 48), on_step=on_step)
        torch.save(result.lora_state, folder / "end.pt")

    def kill(root, variants):
        for name, options in variants.items():
            recipe = TrainingRecipe(steps=9, batch_size=4, checkpoint_interval=4, **options)
            for folder, kill_at in (("whole", 0), ("killed", 6), ("killed", 0)):
                child = os.fork()
                if child == 0:
                    resumable(recipe, root / name / folder, kill_at)
                    os._exit(0)
                status = os.waitpid(child, 0)[1]
                assert status == (signal.SIGKILL if kill_at else 0), (name, folder, status)
                if kill_at:
                    assert not (root / name / folder / "end.pt").exists()
                    # killed half-way through a state: neither to be taken for one, nor to stay
                    (root / name / folder / "resume" / ".unfinished-1-aa").mkdir()

    root, variants, killed = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    kill(root, killed)
    alone = multiprocessing.get_context("fork").Process(target=work, args=(root / "one", variants, ""))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
    agent = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d",
                         rdzv_endpoint="localhost:0", run_id="two", max_restarts=0, start_method="fork")
    elastic_launch(agent, work)(root / "two", variants, sys.argv[4])
"""
COMMON = {
    "steps": 1,
    "batch_size": 8,
    "gradient_clip": 1e9,
    "identity_loss_start": 0,
    "lpips_start": 0,
    "identity_loss_threshold": 0.7,
    "lpips_threshold": 0.5,
}
VARIANTS = {
    "all rows": {**COMMON, "seed": 1},
    "gated rows, micro batches": {
        **COMMON,
        "seed": 2,
        "micro_batch_size": 1,
        "gated_loss_normalisation": "gated_rows",
        "gradient_checkpointing": True,
    },
}
KILLED = {
    "adamw": {"learning_rate": 1e-2, "ema_decay": 0.9},
    "prodigy": {"optimiser": "prodigy", "learning_rate": 1.0, "micro_batch_size": 2, "ema_decay": 0.9},
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, subprocess.CompletedProcess]:
    """Runs unbroken and killed, then one process, then two of which the second breaks in the end; what those
    found."""
    root = tmp_path_factory.mktemp("processes")
    script = root / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    for name in ("one", "two"):
        (root / name).mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(root), json.dumps(VARIANTS), json.dumps(KILLED), "all rows"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    found = {
        name: [torch.load(path) for path in sorted((root / name).glob("*.pt"))] for name in ("one", "two")
    }
    return root, found, done


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(launched, variant) -> None:
    alone, both = launched[1]["one"], launched[1]["two"]
    assert (len(alone), len(both)) == (1, 2), launched[2].stderr
    expected = alone[0][variant]
    assert min(expected["losses"][name] for name in ("flow", "identity", "lpips")) > 0
    for found in both:
        assert found[variant]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        for name, gradient in expected["gradients"].items():
            other = found[variant]["gradients"][name]
            if gradient is None:
                assert other is None, name
            else:
                largest, difference = float(gradient.abs().max()), float((other - gradient).abs().max())
                assert difference <= min(1e-6, 1e-4 * largest), name
                assert largest > 0


def test_adapters_without_a_gradient_are_those_that_are_named(launched) -> None:
    from models.swap import config
    from models.swap.transformer import adapters_without_gradient

    for found in (launched[1]["one"][0], *launched[1]["two"]):
        gradients = found["all rows"]["gradients"]
        lacking = {name for name, value in gradients.items() if value is None}
        assert lacking
        named = adapters_without_gradient(config.smoke())
        assert {name.partition(".lora_")[0] for name in lacking} == {
            name.partition(".lora_")[0] for name in named
        }


def test_when_one_process_fails_all_end(launched) -> None:
    root, _, done = launched
    assert done.returncode != 0
    assert "the disk of process 1 is gone" in done.stderr
    assert not list((root / "two" / "run-broken").glob("resume/step_*"))


@pytest.mark.parametrize("variant", KILLED)
def test_killed_processes_resume_bit_for_bit(launched, variant) -> None:
    """Every run is a process of its own: unbroken, killed by SIGKILL at step 6, and the rerun of that."""
    folders = [launched[0] / variant / name for name in ("whole", "killed")]
    assert all((folder / "end.pt").exists() for folder in folders), launched[2].stderr
    whole, resumed = (torch.load(folder / "end.pt") for folder in folders)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    assert len({(folder / "losses.jsonl").read_text() for folder in folders}) == 1
    assert not list(folders[1].rglob(".unfinished*"))
    last = [folder / "resume" / "step_00000009" for folder in folders]
    for part in ("weights", "optimiser", "average", "state.json"):
        assert len({(folder / part).read_bytes() for folder in last}) == 1, part
