from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.swap import config as swap_config
from models.swap.data import TeacherData, TrainingBatch, ValidationRows
from models.swap.losses import LossNetworks
from models.swap.sampling_config import SamplingConfig
from models.swap.step import draw_noise, draw_step
from models.swap.training_recipe import TrainingRecipe
from models.swap.training_run import LOSSES_NAME
from models.swap.training_state import states_folder
from models.swap.transformer import SwapTransformer
from models.swap.validation import Validation, validation_grid

RECIPE = TrainingRecipe(steps=12, batch_size=4, learning_rate=1e-2, checkpoint_interval=5, seed=3)


def test_training_moves_only_the_adapters_and_lowers_the_loss(build_model, run_training, tmp_path):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    recipe = RECIPE.model_copy(update={"steps": 60, "schedule": "cosine", "warmup_steps": 5})
    random_states = []
    result = run_training(
        model,
        tmp_path,
        recipe,
        on_step=lambda step, losses: seen.append((step, losses.total)),
        on_resume=lambda losses: random_states.append(torch.get_rng_state()),
    )
    # nothing draws from the global generator, so it is no part of the state
    assert torch.equal(torch.get_rng_state(), random_states[0])
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert [step for step, _ in seen] == list(range(1, 61))
    early = np.mean([losses.flow for losses in result.losses[:10]])
    late = np.mean([losses.flow for losses in result.losses[-10:]])
    assert late < 0.9 * early
    logged = [json.loads(line) for line in (tmp_path / LOSSES_NAME).read_text().splitlines()]
    assert [line["step"] for line in logged] == list(range(1, 61))
    assert logged[-1]["flow"] == result.losses[-1].flow
    assert set(result.lora_state) == {
        "transformer." + name.replace(".default", "") for name in model.lora_parameters()
    }
    moved = [name for name, value in result.lora_state.items() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == 13 - 3


def test_a_missing_gpu_is_an_error(build_model, run_training, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="device cuda was asked for"):
        run_training(build_model(), tmp_path, RECIPE, device="cuda")


def test_everything_can_be_trained(build_model, run_training, tmp_path):
    model = build_model()
    before = model.flux.proj_out.weight.detach().clone()
    recipe = TrainingRecipe(
        **RECIPE.model_dump() | {"steps": 2, "trainable": "everything", "branch_removal": 0.5}
    )
    result = run_training(model, tmp_path, recipe)
    assert not torch.equal(before, result.lora_state["flux.proj_out.weight"])
    assert set(result.lora_state) == {name for name, _ in model.named_parameters()}


def test_a_loss_that_is_not_finite_stops_with_its_step_and_rows(build_model, run_training, tmp_path):
    class Data:
        def draw(self, rng, batch_size):
            return np.arange(batch_size)[:, None] + 40

        def read(self, choices):
            latents = torch.zeros(len(choices), 16, 48)
            latents[2] = float("nan")
            return TrainingBatch(latents, torch.zeros_like(latents), torch.zeros(len(choices), 128))

    recipe = RECIPE.model_copy(update={"micro_batch_size": 3})
    message = r"loss of step 1 is nan in rows \[2\] of its batch \(drawn as \[\[42\]\]\)"
    with pytest.raises(FloatingPointError, match=message):
        run_training(build_model(), tmp_path, recipe, data=Data())


def test_draws_depend_on_seed_step_and_row_alone():
    recipe = TrainingRecipe(batch_size=5000, seed=3, proxy_reconstruction=0.5)
    first, again = draw_step(recipe, 4), draw_step(recipe, 4)
    assert torch.equal(first.timestep_B, again.timestep_B)
    assert not torch.equal(first.timestep_B, draw_step(recipe, 5).timestep_B)
    for kept in (first.prompted_B, first.conditioned_B, first.identified_B):
        assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.02)
    assert float(first.proxied_B.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(first.prompted_B, first.conditioned_B)
    # sigmoid of a standard normal: median 1/2, and P(t <= 0.35) = Phi(logit 0.35) = 0.268
    assert float(first.timestep_B.median()) == pytest.approx(0.5, abs=0.02)
    assert float((first.timestep_B <= 0.35).float().mean()) == pytest.approx(0.268, abs=0.02)
    shape = torch.Size((16, 48))
    noise = draw_noise(recipe, 4, range(8), shape)
    assert torch.equal(noise[3:6], draw_noise(recipe, 4, range(3, 6), shape))
    assert not torch.equal(noise, draw_noise(recipe, 5, range(8), shape))
    assert not torch.equal(noise[0], noise[1])
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("lacking", "roles"),
    [
        ({"identity_loss_start": 0, "lpips_weight": 0.0}, "simswap_arcface, ir_se50, dlib_face_recognition"),
        ({"lpips_start": 0, "identity_loss_weight": 0.0}, "vgg16 and lpips_vgg"),
    ],
)
def test_a_loss_without_its_network_is_refused(build_model, run_training, tmp_path, lacking, roles):
    with pytest.raises(ValueError, match=roles):
        run_training(build_model(), tmp_path, RECIPE.model_copy(update=lacking))
    assert not list(tmp_path.iterdir())


def _first_colours(images, points):
    return torch.nn.functional.pad(images.mean(dim=(2, 3)) - 0.5, (0, 125))


class Red:
    """The teacher's data with one identity for all: a reference that wants red pictures."""

    def __init__(self, data):
        self._data = data

    def draw(self, rng, batch_size):
        return self._data.draw(rng, batch_size)

    def read(self, choices):
        batch = self._data.read(choices)
        reference = torch.zeros(len(choices), 128)
        reference[:, 0] = 1.0
        fields = (batch.target_latents_BLC, batch.condition_latents_BLC, batch.identity_BD)
        return type(batch)(*fields, reference_BD=reference)


def test_both_gated_losses_reach_the_adapters(build_model, run_training, teacher_data, tmp_path):
    weights = {"identity_loss_weight": 30.0, "lpips_weight": 0.5}
    options = {"identity_loss_threshold": 1.0, "steps": 60, "identity_dropout": 0.0, "learning_rate": 3e-3}
    starts = {"identity_loss_start": 2, "lpips_start": 1, "lpips_threshold": 0.6}
    recipe = RECIPE.model_copy(update={**options, **starts, **weights})
    networks = LossNetworks(_first_colours, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    losses = run_training(build_model(), tmp_path, recipe, data=Red(teacher_data), networks=networks).losses
    assert [bool(item.identity) for item in losses[:4]] == [False, False, True, True]
    assert losses[0].lpips == 0 < max(item.lpips for item in losses[1:4])
    for item in losses:
        assert item.total == pytest.approx(item.flow + 30 * item.identity + 0.5 * item.lpips, rel=1e-5)
    assert np.mean([x.identity for x in losses[-8:]]) < 0.8 * np.mean([x.identity for x in losses[2:10]])


def test_proxy_reconstruction_shows_the_ground_truth(build_model, run_training, patch_codec, tmp_path):
    """With the condition replaced always, what the condition was cannot matter."""
    rng = np.random.default_rng(0)
    targets, faces, people = (
        rng.standard_normal((6, 16, 48)),
        rng.standard_normal((6, 128)),
        np.arange(6) // 3,
    )
    states = {}
    for name, conditions, probability in (
        ("truth", targets, 0.0),
        ("proxy", np.zeros_like(targets), 1.0),
        ("other", np.zeros_like(targets), 0.0),
    ):
        recipe = RECIPE.model_copy(update={"steps": 2, "proxy_reconstruction": probability})
        data = TeacherData(targets, conditions, faces, people)
        states[name] = run_training(build_model(), tmp_path / name, recipe, data=data).lora_state
    assert all(torch.equal(value, states["proxy"][name]) for name, value in states["truth"].items())
    assert not all(torch.equal(value, states["other"][name]) for name, value in states["truth"].items())


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_give_the_gradients_of_the_whole_batch(
    build_model, run_training, teacher_data, tmp_path, micro_batch_size
):
    """Plain SGD at rate 1 without clipping: the step is the gradient."""
    plain = {"optimiser": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "gradient_clip": 1e9, "steps": 1}
    gated = {"identity_loss_start": 0, "lpips_start": 0, "identity_loss_threshold": 0.7}
    networks = LossNetworks(_first_colours, lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    for normalisation in ("all_rows", "gated_rows"):
        recipe = RECIPE.model_copy(
            update={**plain, **gated, "batch_size": 8, "gated_loss_normalisation": normalisation}
        )
        whole, parts = build_model(lora=True), build_model(lora=True)
        options = {"data": Red(teacher_data), "networks": networks}
        one = run_training(whole, tmp_path / f"{normalisation} whole", recipe, **options)
        cut = recipe.model_copy(update={"micro_batch_size": micro_batch_size})
        several = run_training(parts, tmp_path / f"{normalisation} parts", cut, **options)
        assert one.losses[0].identity > 0
        assert several.losses[0].total == pytest.approx(one.losses[0].total, rel=1e-5)
        assert several.losses[0].gradient_norm == pytest.approx(one.losses[0].gradient_norm, rel=1e-5)
        for name, value in one.lora_state.items():
            torch.testing.assert_close(several.lora_state[name], value, rtol=1e-6, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_run(build_model, run_training, tmp_path):
    plain = run_training(build_model(), tmp_path / "a", RECIPE.model_copy(update={"steps": 2}))
    recipe = RECIPE.model_copy(update={"steps": 2, "gradient_checkpointing": True})
    again = run_training(build_model(), tmp_path / "b", recipe)
    for name, value in plain.lora_state.items():
        torch.testing.assert_close(value, again.lora_state[name])


def test_adapters_stay_float32_over_a_bfloat16_base_and_keep_tiny_updates(
    build_model, run_training, tmp_path
):
    model = build_model().to(torch.bfloat16)
    recipe = RECIPE.model_copy(update={"learning_rate": 1e-6, "weight_decay": 0.0, "steps": 5})
    model.add_lora(model.config.lora, seed=recipe.seed)
    with torch.no_grad():
        for name, value in model.lora_parameters().items():
            if "lora_B" in name:
                value.fill_(0.25)
    before = {name: value.detach().clone() for name, value in model.lora_parameters().items()}
    run_training(model, tmp_path, recipe)
    assert model.flux.proj_out.weight.dtype == torch.bfloat16
    saved = load_file(states_folder(tmp_path) / "step_00000005" / "optimiser")
    assert {value.dtype for name, value in saved.items()} == {torch.float32}
    moved = []
    for name, value in model.lora_parameters().items():
        assert value.dtype == torch.float32
        change = (value.detach() - before[name]).abs()
        if "lora_B" in name and change.max() > 0:
            moved.append(name)
            # five steps of at most 1e-6 each, and bfloat16 would not have shown any of them
            assert 2e-6 < float(change.max()) < 6e-6
            assert torch.equal(value.detach().bfloat16(), before[name].bfloat16())
    assert len(moved) == 13 - 3


def test_the_moving_average_is_the_result_and_the_raw_weights_are_kept(build_model, run_training, tmp_path):
    recipe = RECIPE.model_copy(update={"steps": 3, "checkpoint_interval": 1})
    raw = {}
    for steps in (1, 2, 3):
        model = build_model(lora=True)
        start = {name: value.detach().clone() for name, value in model.lora_parameters().items()}
        run_training(model, tmp_path / str(steps), recipe.model_copy(update={"steps": steps}))
        raw[steps] = {name: value.detach().clone() for name, value in model.lora_parameters().items()}
    averaged = recipe.model_copy(update={"ema_decay": 0.25})
    model = build_model(lora=True)
    result = run_training(model, tmp_path / "average", averaged)
    saved = load_file(states_folder(tmp_path / "average") / "step_00000003" / "weights")
    for name, value in start.items():
        expected = value
        for step, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):  # (1 + k) / (10 + k), at most 0.25
            expected = decay * expected + (1 - decay) * raw[step][name]
        key = "transformer." + name.replace(".default.", ".")
        torch.testing.assert_close(result.lora_state[key], expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(saved[f"flux.{name}"], raw[3][name], rtol=0, atol=0)


def test_validation_shows_the_average_and_disturbs_nothing(
    build_model, run_training, teacher_data, patch_codec, tmp_path
):
    batch = teacher_data.read(teacher_data.draw(np.random.default_rng(0), 3))
    latents = (batch.target_latents_BLC, batch.target_latents_BLC, batch.condition_latents_BLC)
    rows = ValidationRows(*latents, batch.identity_BD)
    grids = {}
    validation = Validation(rows, SamplingConfig(steps=2, inversion=None), grids.__setitem__)
    recipe = RECIPE.model_copy(update={"steps": 6, "validation_interval": 2, "ema_decay": 0.9})
    plain = run_training(build_model(), tmp_path / "plain", recipe)
    model = build_model()
    shown = run_training(model, tmp_path / "shown", recipe, validation=validation)
    assert shown.losses == plain.losses
    for name, value in plain.lora_state.items():
        assert torch.equal(value, shown.lora_state[name]), name
    assert list(grids) == [2, 4, 6]
    # the result is the average of the last step, which is what the last grid shows
    again = validation_grid(model, patch_codec, validation, device=torch.device("cpu"), seed=recipe.seed)
    assert np.array_equal(again, grids[6])
    assert not np.array_equal(grids[2], grids[6])
    # the kernel of the training is neither what the swapper would choose nor changed by a grid
    model.use_attention("math")
    validation_grid(model, patch_codec, validation, device=torch.device("cpu"), seed=recipe.seed)
    assert model.attention == "math"


def test_the_same_seed_gives_the_same_adapters():
    states = []
    for seed in (1, 1, 2):
        model = SwapTransformer(swap_config.smoke())
        model.add_lora(model.config.lora, seed=seed)
        states.append({name: value.detach().clone() for name, value in model.lora_parameters().items()})
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        if "lora_B" in name:
            assert not value.any()
        else:
            assert not torch.equal(value, states[2][name])
            assert float(value.std()) == pytest.approx(1 / 4, rel=0.3)
