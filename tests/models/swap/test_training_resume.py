from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from models.swap.training_recipe import TrainingRecipe
from models.swap.training_state import ResumeMismatch, states_folder

RECIPE = TrainingRecipe(steps=12, batch_size=4, learning_rate=1e-2, checkpoint_interval=5, seed=3)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimiser": "prodigy", "learning_rate": 1.0, "weight_decay": 0.01, "micro_batch_size": 3},
        {"optimiser": "sgd", "momentum": 0.9, "ema_decay": 0.5},
    ],
    ids=["adamw", "prodigy", "sgd"],
)
def test_interrupted_training_resumes_bit_for_bit(build_model, run_training, tmp_path, options):
    recipe = TrainingRecipe(**{**RECIPE.model_dump(), **options})
    whole = run_training(build_model(), tmp_path / "whole", recipe)

    def stop(step, losses):
        if step == 8:
            raise Stop

    with pytest.raises(Stop):
        run_training(build_model(), tmp_path / "broken", recipe, on_step=stop)
    steps, known = [], []
    resumed = run_training(
        build_model(),
        tmp_path / "broken",
        recipe,
        on_step=lambda step, losses: steps.append(step),
        on_resume=known.extend,
        read_ahead=3,
    )
    assert steps == list(range(6, 13))
    assert known[:5] == whole.losses[:5]
    assert resumed.losses == whole.losses
    for name, value in whole.lora_state.items():
        assert torch.equal(value, resumed.lora_state[name]), name
    kept = sorted(path.name for path in states_folder(tmp_path / "broken").iterdir())
    assert kept == ["step_00000010", "step_00000012"]


def test_killed_processes_resume_bit_for_bit(tmp_path):
    """Every run is a process of its own: unbroken, killed by SIGKILL at step 6, and the rerun of that."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, os, signal, sys
            from pathlib import Path
            import numpy as np, torch
            from models.swap import config
            from models.swap.codec import PatchCodec
            from models.swap.data import TrainingBatch
            from models.swap.training import train
            from models.swap.training_recipe import TrainingRecipe
            from models.swap.transformer import SwapTransformer

            torch.set_num_threads(1)

            class Data:
                def draw(self, rng, batch_size):
                    return rng.integers(2**60, size=(batch_size, 1))

                def read(self, choices):
                    rows = [np.random.default_rng(row).standard_normal(16 * 48 + 128) for row in choices]
                    x = torch.from_numpy(np.stack(rows)).float()
                    latents = x[:, :768].reshape(-1, 16, 48)
                    return TrainingBatch(latents, latents * 0.5, x[:, 768:])

            def run(recipe, folder, kill_at):
                def on_step(step, losses):
                    if step == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

                torch.manual_seed(0)
                model = SwapTransformer(config.smoke())
                result = train(model, Data(), recipe, folder, codec=PatchCodec(config.smoke().codec),
                               black_latents_LC=torch.zeros(16, 48), on_step=on_step)
                torch.save(result.lora_state, folder / "end.pt")

            root = Path(sys.argv[1])
            signals = {}
            for name, options in json.loads(sys.argv[2]).items():
                recipe = TrainingRecipe(steps=9, batch_size=4, checkpoint_interval=4, **options)
                for folder, kill_at in (("whole", 0), ("killed", 6), ("killed", 0)):
                    child = os.fork()
                    if child == 0:
                        run(recipe, root / name / folder, kill_at)
                        os._exit(0)
                    status = os.waitpid(child, 0)[1]
                    signals.setdefault(name, []).append(status)
                    if kill_at:
                        assert not (root / name / folder / "end.pt").exists()
                        # killed half-way through a state: neither to be taken for one, nor to stay
                        (root / name / folder / "resume" / ".unfinished-1-aa").mkdir()
            print(json.dumps(signals))
            """
        )
    )
    variants = {
        "adamw": {"learning_rate": 1e-2, "ema_decay": 0.9},
        "prodigy": {"optimiser": "prodigy", "learning_rate": 1.0, "micro_batch_size": 2, "ema_decay": 0.9},
    }
    command = [sys.executable, str(script), str(tmp_path), json.dumps(variants)]
    done = subprocess.run(command, check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [0, int(signal.SIGKILL), 0] for name in variants}
    for name in variants:
        folders = [tmp_path / name / folder for folder in ("whole", "killed")]
        whole, resumed = (torch.load(folder / "end.pt") for folder in folders)
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), key
        assert len({(folder / "losses.jsonl").read_text() for folder in folders}) == 1
        assert not list(folders[1].rglob(".unfinished*"))
        last = [folder / "resume" / "step_00000009" for folder in folders]
        for part in ("weights", "optimiser", "average", "state.json"):
            assert len({(folder / part).read_bytes() for folder in last}) == 1, part


def test_another_runs_folder_is_refused(build_model, run_training, tmp_path):
    short = RECIPE.model_copy(update={"steps": 2})
    run_training(build_model(), tmp_path, short, provenance={"base": "a"})
    with pytest.raises(ResumeMismatch, match="differs in base, recipe"):
        run_training(build_model(), tmp_path, RECIPE, provenance={"base": "b"})


def test_a_state_without_its_losses_is_refused(build_model, run_training, tmp_path):
    short = RECIPE.model_copy(update={"steps": 2})
    run_training(build_model(), tmp_path, short)
    (tmp_path / "losses.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="has 0 lines, the saved state is at step 2"):
        run_training(build_model(), tmp_path, short)
