"""The recipe of a training: its learning rate over time, the paper's defaults, what it refuses."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.swap.optimisers import learning_rate
from models.swap.training_recipe import TrainingRecipe


def test_learning_rate_schedule():
    recipe = TrainingRecipe(steps=110, warmup_steps=10, schedule="cosine", learning_rate=2.0)
    assert learning_rate(recipe, 5) == pytest.approx(1.0)
    assert learning_rate(recipe, 10) == pytest.approx(2.0)
    assert learning_rate(recipe, 60) == pytest.approx(1.0)
    assert learning_rate(recipe, 110) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(TrainingRecipe(learning_rate=1e-2), 12) == 1e-2


def test_recipes_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="a factor on the rate prodigy finds; set it to 1"):
        TrainingRecipe(optimiser="prodigy")
    with pytest.raises(ValidationError, match="leaves a LoRA nothing to learn"):
        TrainingRecipe(branch_removal=0.1)


def test_the_defaults_are_the_papers_teacher():
    recipe = TrainingRecipe()
    expected = {
        "steps": 65_000,
        "batch_size": 16,
        "optimiser": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "gradient_clip": 0.5,
        "ema_decay": None,
        "identity_loss_start": 15_000,
        "identity_loss_threshold": 0.35,
        "lpips_threshold": 0.35,
        "text_dropout": 0.1,
        "condition_dropout": 0.1,
        "identity_dropout": 0.1,
        "checkpoint_interval": 250,
        "validation_interval": 250,
        "validation_images": 5,
        "proxy_reconstruction": 0.0,
    }
    assert {name: getattr(recipe, name) for name in expected} == expected
