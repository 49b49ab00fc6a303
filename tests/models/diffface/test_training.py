"""One step of the denoiser's training against a reference written out line by line."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from models.diffface.config import DenoiserConfig
from models.diffface.denoiser import Denoiser
from models.diffface.training import train_denoiser
from models.diffface.training_data import DenoiserBatch, IdentitySource, PhotoData
from models.diffface.training_losses import draw_indices, draw_noise, face_network_pixels
from models.diffface.training_recipe import DenoiserRecipe
from models.faces.network_inputs import imagenet_normalised
from models.swap.seeds import DATA, step_seed

RECIPE = DenoiserRecipe(steps=2, batch_size=6, learning_rate=3e-3, weight_decay=0.1, ema_decay=0.9, seed=5)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def build_denoiser(small_config: DenoiserConfig) -> Callable[[], Denoiser]:
    """Gives equal denoisers, each call one."""

    def build() -> Denoiser:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            denoiser = Denoiser(small_config.model_copy(update={"identity_dim": 6}))
            for value in denoiser.parameters():
                torch.nn.init.normal_(value, std=0.1)
        return denoiser

    return build


def build_data(people=None, source: IdentitySource = "image") -> PhotoData:
    rng = np.random.default_rng(3)
    identity = rng.standard_normal((12, 6)).astype(np.float32)
    return PhotoData(
        rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
        identity / np.linalg.norm(identity, axis=1, keepdims=True),
        people,
        points_N52=rng.random((12, 5, 2)).astype(np.float32),
        identity_source=source,
    )


def encode(images: Tensor, points: Tensor | None) -> Tensor:
    """Stands for a face network: colours of both halves of the picture, moved by the points."""
    assert points is not None
    halves = torch.cat([images[..., :4].mean(dim=(2, 3)), images[..., 4:].mean(dim=(2, 3))], dim=1)
    return halves - points.mean(dim=(1, 2))[:, None]


def reference_terms(denoiser: Denoiser, batch: DenoiserBatch, index: Tensor, noise: Tensor) -> list[Tensor]:
    """Noise, bound and identity terms of a batch, each as a mean over it."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - beta)
    before = np.concatenate([[1.0], bar[:-1]])
    clean = batch.images_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1
    rows = []
    assert batch.points_B52 is not None
    for x0, e, t, who, points in zip(
        clean, noise, index.tolist(), batch.identity_BD, batch.points_B52, strict=True
    ):
        x = math.sqrt(bar[t]) * x0 + math.sqrt(1 - bar[t]) * e
        out = denoiser(x[None], torch.tensor([float(t)]), who[None])[0]
        found, place = out[:3], (out[3:] + 1) / 2
        estimate = (x - math.sqrt(1 - bar[t]) * found) / math.sqrt(bar[t])

        def mean_of(image, t=t, x=x):
            first = beta[t] * math.sqrt(before[t]) / (1 - bar[t])
            second = (1 - before[t]) * math.sqrt(1 - beta[t]) / (1 - bar[t])
            return first * image + second * x

        step = max(t, 1)
        low = math.log(beta[step] * (1 - before[step]) / (1 - bar[step]))
        log_variance = place * math.log(beta[t]) + (1 - place) * low
        mean = mean_of(estimate).detach()
        if t == 0:
            normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
            above = torch.where(x0 > 254 / 255, 1.0, normal.cdf(x0 + 1 / 255))
            below = torch.where(x0 < -254 / 255, 0.0, normal.cdf(x0 - 1 / 255))
            nats = -(above - below).clamp_min(1e-12).log()
        else:
            apart = (mean_of(x0) - mean) ** 2 / log_variance.exp()
            nats = 0.5 * (log_variance - low + math.exp(low) / log_variance.exp() + apart - 1)
        seen = encode((estimate.clamp(-1, 1)[None] + 1) / 2, points[None])[0]
        rows.append(
            torch.stack(
                [
                    ((found - e) ** 2).mean(),
                    nats.mean() / math.log(2),
                    1 - (seen @ who) / (seen.norm() * who.norm()),
                ]
            )
        )
    return list(torch.stack(rows).mean(dim=0))


@pytest.mark.parametrize(("weighting", "weights"), [("code", (1.0, 1.0, 0.01)), ("paper", (0.5, 0.5, 1.0))])
def test_two_steps_are_those_of_a_straight_reference(build_denoiser, weighting, weights, tmp_path):
    recipe = RECIPE.model_copy(update={"weighting": weighting})
    data, denoiser = build_data(), build_denoiser()
    losses = train_denoiser(denoiser, data, recipe, tmp_path, encode_face=encode)

    other = build_denoiser()
    values = dict(other.named_parameters())
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    average = {name: value.detach().clone() for name, value in values.items()}
    for step in (1, 2):
        rng = np.random.default_rng(step_seed(5, step, DATA))
        batch = data.read(data.draw(rng, 6))
        noise = draw_noise(recipe, step, range(6), (3, 8, 8))
        terms = reference_terms(other, batch, draw_indices(recipe, step), noise)
        total = torch.stack(terms) @ torch.tensor(weights)
        gradients = torch.autograd.grad(total, list(values.values()))
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        numbers = losses[step - 1]
        assert numbers.total == pytest.approx(float(total.detach()), rel=1e-4)
        assert [numbers.noise, numbers.variance_bound, numbers.identity] == pytest.approx(
            [float(term.detach()) for term in terms], rel=1e-4
        )
        assert numbers.gradient_norm == pytest.approx(norm, rel=1e-3)
        with torch.no_grad():
            for (name, value), gradient in zip(values.items(), gradients, strict=True):
                clipped = gradient * min(1.0, 1.0 / (norm + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * clipped
                second[name] = 0.999 * second[name] + 0.001 * clipped**2
                value *= 1 - 3e-3 * 0.1
                moved = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
                value -= 3e-3 * moved
                decay = min(0.9, (1 + step) / (10 + step))
                average[name] = decay * average[name] + (1 - decay) * value
    for name, value in denoiser.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=0, atol=2e-4)
    assert max(float((average[name] - values[name]).detach().abs().max()) for name in values) > 5e-4


def test_micro_batches_move_nothing_but_rounding(build_denoiser, tmp_path):
    results = []
    for size in (None, 4):
        denoiser = build_denoiser()
        recipe = RECIPE.model_copy(update={"micro_batch_size": size, "steps": 1})
        results.append(
            train_denoiser(denoiser, build_data(), recipe, tmp_path / str(size), encode_face=encode)
        )
    assert results[0][0].total == pytest.approx(results[1][0].total, rel=1e-5)
    assert results[0][0].gradient_norm == pytest.approx(results[1][0].gradient_norm, rel=1e-4)


def test_diffusion_steps_are_drawn_evenly_and_per_step_of_training():
    recipe = DenoiserRecipe(batch_size=4000)
    first, second = draw_indices(recipe, 1), draw_indices(recipe, 2)
    assert not torch.equal(first, second)
    assert torch.equal(first, draw_indices(recipe, 1))
    assert np.histogram(first, bins=4, range=(0, 1000))[0].min() > 900
    noise = draw_noise(recipe, 1, range(3, 5), (3, 16, 16))
    assert torch.equal(noise[1], draw_noise(recipe, 1, range(4, 5), (3, 16, 16))[0])
    assert not torch.equal(noise[0], noise[1])


def test_bound_scale_of_other_schedules():
    assert DenoiserRecipe().bound_scale == 1.0
    assert DenoiserRecipe(diffusion_steps=250).bound_scale == 0.25
    assert DenoiserRecipe(diffusion_steps=250, variance_bound_scale="none").bound_scale == 1.0


def test_face_network_sees_what_sampling_shows_it_or_the_published_pixels():
    estimate = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0]).expand(1, 3, 1, 5)
    clamped = estimate.clamp(-1, 1)
    torch.testing.assert_close(face_network_pixels(estimate, RECIPE), (clamped + 1) / 2)
    published = RECIPE.model_copy(update={"identity_pixels": "unnormalised"})
    # behind the normalisation of a network trained on ImageNet stands the bare estimate
    torch.testing.assert_close(imagenet_normalised(face_network_pixels(estimate, published)), clamped)


def test_identity_of_the_image_or_of_another_photograph():
    people = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4])
    own = build_data(people).draw(np.random.default_rng(0), 200)
    assert (own[:, 0] == own[:, 1]).all()
    assert set(own[:, 0]) == set(range(12))
    data = build_data(people, "other_photo")
    others = data.draw(np.random.default_rng(0), 400)
    assert len(data) == 11  # person 2 has one photograph
    assert (people[others[:, 0]] == people[others[:, 1]]).all()
    assert (others[:, 0] != others[:, 1]).all()
    batch = data.read(others[:4])
    assert batch.images_BHW3.dtype == torch.uint8
    assert batch.points_B52 is not None
    assert tuple(batch.points_B52.shape) == (4, 5, 2)
    with pytest.raises(ValueError, match="whose photographs"):
        build_data(None, "other_photo")
    with pytest.raises(ValueError, match="no picture has an identity"):
        build_data(np.arange(12), "other_photo")


def test_what_cannot_be_trained_is_refused(small_config, build_denoiser, tmp_path):
    with pytest.raises(ValueError, match="no face network was given"):
        train_denoiser(build_denoiser(), build_data(), RECIPE, tmp_path)
    fixed = Denoiser(small_config.model_copy(update={"learn_sigma": False}))
    with pytest.raises(ValueError, match="learned variance"):
        train_denoiser(fixed, build_data(), RECIPE, tmp_path, encode_face=encode)
    half = Denoiser(small_config.model_copy(update={"torso_dtype": "bfloat16"}))
    with pytest.raises(ValueError, match="torso is bfloat16"):
        train_denoiser(half, build_data(), RECIPE, tmp_path, encode_face=encode)
    with pytest.raises(FloatingPointError, match=r"loss of step 1 is nan in rows \[0, 1, 2, 3, 4, 5\]"):
        train_denoiser(
            build_denoiser(),
            build_data(),
            RECIPE,
            tmp_path,
            encode_face=lambda images, points: encode(images, points) * math.nan,
        )
