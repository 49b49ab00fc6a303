from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from models.swap import config as swap_config
from models.swap.codec import PatchCodec
from models.swap.data import StudentData, TeacherData, TrainingBatch
from models.swap.losses import clean_estimate, flow_matching_loss, flow_sample, identity_loss
from models.swap.training import draw_step, learning_rate, train
from models.swap.training_recipe import TrainingRecipe
from models.swap.training_state import ResumeMismatch, states_folder
from models.swap.transformer import SwapTransformer

RECIPE = TrainingRecipe(steps=12, batch_size=4, learning_rate=1e-2, checkpoint_interval=5, seed=3)


def _data() -> TeacherData:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(6), 3)
    faces = rng.standard_normal((6, 128))
    targets = rng.standard_normal((18, 16, 48)) * 0.3 + rng.standard_normal((6, 16, 48))[people]
    conditions = targets * 0.7
    return TeacherData(
        targets, conditions.astype(np.float16), faces[people] + 0.05 * rng.standard_normal((18, 128)), people
    )


def _codec() -> PatchCodec:
    codec = PatchCodec(swap_config.smoke().codec)
    codec.fit(np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    return codec


def _train(model, output_dir, recipe=RECIPE, **options):
    return train(
        model, _data(), recipe, output_dir, codec=_codec(), black_latents_LC=torch.zeros(16, 48), **options
    )


def test_training_moves_only_the_adapters_and_lowers_the_loss(build_model, tmp_path):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    recipe = RECIPE.model_copy(update={"steps": 60, "schedule": "cosine", "warmup_steps": 5})
    result = _train(model, tmp_path, recipe, on_step=lambda step, losses: seen.append((step, losses.total)))
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert [step for step, _ in seen] == list(range(1, 61))
    early = np.mean([losses.flow for losses in result.losses[:10]])
    late = np.mean([losses.flow for losses in result.losses[-10:]])
    assert late < 0.9 * early
    logged = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == list(range(1, 61))
    assert logged[-1]["flow"] == result.losses[-1].flow
    assert set(result.lora_state) == {
        "transformer." + name.replace(".default", "") for name in model.lora_parameters()
    }
    moved = [name for name, value in result.lora_state.items() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == 13 - 3


class Stop(Exception):
    pass


def test_interrupted_training_resumes_bit_for_bit(build_model, tmp_path):
    whole = _train(build_model(), tmp_path / "whole")

    def stop(step, losses):
        if step == 8:
            raise Stop

    with pytest.raises(Stop):
        _train(build_model(), tmp_path / "broken", on_step=stop)
    steps = []
    resumed = _train(build_model(), tmp_path / "broken", on_step=lambda step, losses: steps.append(step))
    assert steps == list(range(6, 13))
    assert resumed.losses == whole.losses
    for name, value in whole.lora_state.items():
        assert torch.equal(value, resumed.lora_state[name]), name
    kept = sorted(path.name for path in states_folder(tmp_path / "broken").iterdir())
    assert kept == ["step_00000010", "step_00000012"]


def test_killed_process_resumes_bit_for_bit(tmp_path, monkeypatch):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
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
                def sample(self, rng, batch_size):
                    x = torch.from_numpy(rng.standard_normal((batch_size, 16, 48))).float()
                    face = torch.from_numpy(rng.standard_normal((batch_size, 128))).float()
                    return TrainingBatch(x, x * 0.5, face)

            torch.manual_seed(0)
            model = SwapTransformer(config.smoke())
            recipe = TrainingRecipe(steps=9, batch_size=2, checkpoint_interval=4, learning_rate=1e-2)
            def on_step(step, losses):
                if len(sys.argv) > 2 and step == int(sys.argv[2]):
                    os.kill(os.getpid(), signal.SIGKILL)
            result = train(model, Data(), recipe, Path(sys.argv[1]), codec=PatchCodec(config.smoke().codec),
                           black_latents_LC=torch.zeros(16, 48), on_step=on_step)
            torch.save(result.lora_state, Path(sys.argv[1]) / "end.pt")
            """
        )
    )

    def run_here(folder: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / folder)])
        runpy.run_path(str(script))

    run_here("whole")
    command = [sys.executable, str(script), str(tmp_path / "killed"), "6"]
    assert subprocess.run(command, check=False, timeout=200).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "end.pt").exists()
    # A writer killed half-way leaves an unfinished folder, which must neither be taken for a state nor stay.
    unfinished = tmp_path / "killed" / "resume" / ".unfinished-1-aa"
    unfinished.mkdir()
    run_here("killed")
    assert not unfinished.exists()
    whole, resumed = (torch.load(tmp_path / name / "end.pt") for name in ("whole", "killed"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    logs = [(tmp_path / name / "losses.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_another_runs_folder_is_refused(build_model, tmp_path):
    _train(build_model(), tmp_path, RECIPE.model_copy(update={"steps": 2}), provenance={"base": "a"})
    with pytest.raises(ResumeMismatch, match="differs in base, recipe"):
        _train(build_model(), tmp_path, RECIPE, provenance={"base": "b"})


def test_a_missing_gpu_is_an_error(build_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="device cuda was asked for"):
        _train(build_model(), tmp_path, device="cuda")


def test_everything_can_be_trained(build_model, tmp_path):
    model = build_model()
    before = model.flux.proj_out.weight.detach().clone()
    recipe = RECIPE.model_copy(update={"steps": 2, "trainable": "everything", "branch_removal": 0.5})
    result = _train(model, tmp_path, recipe)
    assert not torch.equal(before, result.lora_state["flux.proj_out.weight"])
    assert set(result.lora_state) == {name for name, _ in model.named_parameters()}


def test_a_loss_that_is_not_finite_stops_with_its_step(build_model, tmp_path):
    model = build_model()
    model.flux.proj_out.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss of step 1 is nan"):
        _train(model, tmp_path)


def test_draws_depend_on_seed_and_step_alone():
    batch = TrainingBatch(torch.zeros(5000, 1, 1), torch.zeros(5000, 1, 1), torch.zeros(5000, 1))
    first, again = draw_step(RECIPE, batch, 4, 0), draw_step(RECIPE, batch, 4, 0)
    assert torch.equal(first.noise_BLC, again.noise_BLC)
    for other in (draw_step(RECIPE, batch, 5, 0), draw_step(RECIPE, batch, 4, 1)):
        assert not torch.equal(first.noise_BLC, other.noise_BLC)
    for kept in (first.prompted_B, first.conditioned_B, first.identified_B):
        assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.02)
    assert not torch.equal(first.prompted_B, first.conditioned_B)
    # sigmoid of a standard normal: median 1/2, and P(t <= 0.35) = Phi(logit 0.35) = 0.268
    assert float(first.timestep_B.median()) == pytest.approx(0.5, abs=0.02)
    assert float((first.timestep_B <= 0.35).float().mean()) == pytest.approx(0.268, abs=0.02)


def test_learning_rate_schedule():
    recipe = RECIPE.model_copy(
        update={"steps": 110, "warmup_steps": 10, "schedule": "cosine", "learning_rate": 2.0}
    )
    assert learning_rate(recipe, 5) == pytest.approx(1.0)
    assert learning_rate(recipe, 10) == pytest.approx(2.0)
    assert learning_rate(recipe, 60) == pytest.approx(1.0)
    assert learning_rate(recipe, 110) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(RECIPE, 12) == RECIPE.learning_rate


def test_flow_sample_and_its_inverse():
    x, noise = torch.tensor([[[2.0]], [[4.0]]]), torch.tensor([[[10.0]], [[0.0]]])
    sample = flow_sample(x, noise, torch.tensor([0.25, 0.5]))
    assert sample.noisy_BLC.flatten().tolist() == [4.0, 2.0]
    assert sample.velocity_BLC.flatten().tolist() == [8.0, -4.0]
    torch.testing.assert_close(clean_estimate(sample.noisy_BLC, sample.velocity_BLC, sample.timestep_B), x)
    assert float(flow_matching_loss(sample.velocity_BLC + 3, sample.velocity_BLC)) == pytest.approx(9.0)


class CountingCodec(PatchCodec):
    """The real codec, remembering how many rows it decoded."""

    decoded = 0

    def decode_differentiable(self, latents_NLC):
        self.decoded += len(latents_NLC)
        return super().decode_differentiable(latents_NLC)


def test_identity_loss_decodes_only_rows_that_need_it():
    codec = CountingCodec(swap_config.smoke().codec)
    codec.load_state_dict(_codec().state_dict())
    encode = lambda images: images.mean(dim=(2, 3))  # noqa: E731
    images = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    latents = codec.encode(images).requires_grad_(True)
    wanted = torch.eye(3)[[0, 1, 2, 0]]
    time, has = torch.tensor([0.1, 0.9, 0.3, 0.2]), torch.tensor([True, True, True, False])
    loss = identity_loss(latents, time, wanted, has, codec=codec, encode_face=encode, threshold=0.35)
    assert codec.decoded == 2
    means = codec.decode(latents).mean(axis=(1, 2)) / 255
    cosines = [means[row] @ wanted[row].numpy() / np.linalg.norm(means[row]) for row in (0, 2)]
    assert float(loss.detach()) == pytest.approx(1 - np.mean(cosines), abs=2e-3)
    loss.backward()
    assert latents.grad is not None
    moved = latents.grad.abs().amax(dim=(1, 2)) > 0
    assert moved.tolist() == [True, False, True, False]
    none = identity_loss(latents, time, wanted, has, codec=codec, encode_face=encode, threshold=0.05)
    assert float(none) == 0
    assert codec.decoded == 2 + 4


def test_the_identity_loss_reaches_the_adapters(build_model, tmp_path):
    encode = lambda images: images.mean(dim=(2, 3)) - 0.5  # noqa: E731
    options = {"identity_loss_threshold": 1.0, "steps": 60, "identity_loss_weight": 30.0}
    recipe = RECIPE.model_copy(update={**options, "identity_dropout": 0.0, "learning_rate": 3e-3})

    class Red:
        def sample(self, rng, batch_size):
            batch = _data().sample(rng, batch_size)
            face = torch.zeros(batch_size, 128)
            face[:, 0] = 1.0
            return TrainingBatch(batch.target_latents_BLC, batch.condition_latents_BLC, face)

    first_three = lambda images: torch.nn.functional.pad(encode(images), (0, 125))  # noqa: E731
    losses = train(
        build_model(),
        Red(),
        recipe,
        tmp_path,
        codec=_codec(),
        black_latents_LC=torch.zeros(16, 48),
        encode_face=first_three,
    ).losses
    assert losses[0].total == pytest.approx(losses[0].flow + 30.0 * losses[0].identity, rel=1e-5)
    assert np.mean([x.identity for x in losses[-8:]]) < 0.8 * np.mean([x.identity for x in losses[:8]])


def test_gradient_checkpointing_gives_the_same_run(build_model, tmp_path):
    plain = _train(build_model(), tmp_path / "a", RECIPE.model_copy(update={"steps": 2}))
    recipe = RECIPE.model_copy(update={"steps": 2, "gradient_checkpointing": True})
    again = _train(build_model(), tmp_path / "b", recipe)
    for name, value in plain.lora_state.items():
        torch.testing.assert_close(value, again.lora_state[name])


def test_teacher_data_takes_identity_from_another_photo_of_the_same_person():
    people = np.array(["x", "y", "x", "z", "y", "x"])
    index = np.arange(6, dtype=np.float32)
    latents = np.repeat(index, 4).reshape(6, 2, 2)
    data = TeacherData(latents, latents + 100, index[:, None], people)
    assert len(data) == 5
    batch = data.sample(np.random.default_rng(0), 500)
    pairs = set()
    for target, condition, face in zip(
        batch.target_latents_BLC[:, 0, 0],
        batch.condition_latents_BLC[:, 0, 0],
        batch.identity_BD[:, 0],
        strict=True,
    ):
        assert condition == target + 100
        pairs.add((int(target), int(face)))
    same = {(a, b) for a in range(6) for b in range(6) if a != b and people[a] == people[b]}
    assert pairs == same
    again = data.sample(np.random.default_rng(0), 500)
    assert torch.equal(batch.identity_BD, again.identity_BD)
    with pytest.raises(ValueError, match="no person has two photos"):
        TeacherData(latents, latents, index[:, None], np.arange(6))


def test_student_data_conditions_on_swaps_and_rebuilds_the_original():
    people = np.array([0, 0, 1, 1])
    index = np.arange(4, dtype=np.float32)
    photos = index[:, None, None]
    swaps = np.array([50.0, 60.0, 70.0])[:, None, None]
    data = StudentData(swaps, np.array([0, 3, 3]), photos, index[:, None], people)
    batch = data.sample(np.random.default_rng(0), 200)
    rows = {
        (int(c), int(t), int(i))
        for c, t, i in zip(
            batch.condition_latents_BLC[:, 0, 0],
            batch.target_latents_BLC[:, 0, 0],
            batch.identity_BD[:, 0],
            strict=True,
        )
    }
    assert rows == {(50, 0, 1), (60, 3, 2), (70, 3, 2)}
    with pytest.raises(ValueError, match="needs another photo"):
        StudentData(swaps, np.array([0, 1, 2]), photos, index[:, None], np.array([0, 0, 1, 2]))


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
