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
    import json, os, sys, time
    from pathlib import Path
    import numpy as np, torch
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

    rank = int(os.environ.get("RANK", "0"))
    root = Path(sys.argv[1])
    found = {}
    for name, options in json.loads(sys.argv[2]).items():
        found[name] = step(TrainingRecipe(**options), root / f"run-{name}", Data())
    torch.save(found, root / f"{rank}.pt")
    if len(sys.argv) > 3:
        Data.breaks = True
        step(TrainingRecipe(**json.loads(sys.argv[2])[sys.argv[3]]), root / "run-broken", Data())
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


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, subprocess.CompletedProcess]:
    """One process, then two of which the second breaks in the end; what each found."""
    root = tmp_path_factory.mktemp("processes")
    script = root / "run.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    commands = {"one": [str(script)], "two": [*launcher, str(script)]}
    found, done = {}, None
    for name, command in commands.items():
        folder = root / name
        folder.mkdir()
        arguments = [str(folder), json.dumps(VARIANTS), *(["all rows"] if name == "two" else [])]
        done = subprocess.run(
            [sys.executable, *command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        found[name] = [torch.load(path) for path in sorted(folder.glob("*.pt"))]
    assert done is not None
    return root, found, done


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(launched, variant) -> None:
    (alone,), both = launched[1]["one"], launched[1]["two"]
    assert len(both) == 2
    expected = alone[variant]
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
