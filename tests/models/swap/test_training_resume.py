from __future__ import annotations

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
        {"optimiser": "muon", "trainable": "everything", "learning_rate": 1e-3},
    ],
    ids=["adamw", "prodigy", "sgd", "muon"],
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
