"""Schedule, posterior and respacing against formulas of their own, DDPM's definition and diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from models.diffface.respacing import respaced, spaced_steps
from models.diffface.schedule import NoiseSchedule, linear_schedule

torch.set_num_threads(1)


def test_betas_and_alpha_bar_are_those_of_diffusers() -> None:
    schedule = linear_schedule()
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    assert len(schedule) == 1000
    assert schedule.timestep_map.tolist() == list(range(1000))
    torch.testing.assert_close(schedule.betas.float(), theirs.betas)
    torch.testing.assert_close(schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert schedule.alphas_cumprod.dtype == torch.float64
    # DiffFace's start, index 74 of 100, is nearly noise
    start = respaced(schedule, "100").alphas_cumprod[74]
    assert [round(float(value), 4) for value in (start.sqrt(), (1 - start).sqrt())] == [0.0588, 0.9983]


def test_fewer_original_steps_are_larger_and_told_on_the_scale_of_1000() -> None:
    short = linear_schedule(250)
    assert short.betas[[0, -1]].tolist() == pytest.approx([4e-4, 0.08])
    assert short.timesteps(249, 2).tolist() == [996.0, 996.0]
    assert short.timesteps(torch.tensor([0, 3]), 2).tolist() == [0.0, 12.0]
    assert respaced(linear_schedule(), "100").timesteps(74, 1).tolist() == [747.0]
    assert respaced(linear_schedule(), "100").timesteps(torch.tensor([99, 0]), 2).tolist() == [999.0, 0.0]


@pytest.mark.parametrize("respacing", ["1000", "100", "ddim25", "10,15,20"])
def test_the_posterior_is_bayes_rule(respacing: str) -> None:
    """The product of q(x_t | x_(t-1)) and q(x_(t-1) | x_0), completed to a square."""
    schedule = respaced(linear_schedule(), respacing)
    x0, xt = torch.tensor([0.37, -0.81], dtype=torch.float64).view(2, 1, 1, 1, 1)
    bars = np.concatenate([[1.0], np.cumprod(1 - schedule.betas.numpy())])
    for index in range(1, len(schedule), 7):
        alpha, beta, bar_before = 1 - float(schedule.betas[index]), float(schedule.betas[index]), bars[index]
        precision = alpha / beta + 1 / (1 - bar_before)
        mean = (math.sqrt(alpha) * -0.81 / beta + math.sqrt(bar_before) * 0.37 / (1 - bar_before)) / precision
        assert schedule.posterior_mean(x0, xt, index).item() == pytest.approx(mean, rel=1e-9)
        assert schedule.posterior_variance[index].item() == pytest.approx(1 / precision, rel=1e-9)
        assert schedule.posterior_log_variance_clipped[index].item() == pytest.approx(-math.log(precision))
    assert schedule.posterior_variance[0] == 0
    assert schedule.posterior_log_variance_clipped[0] == schedule.posterior_log_variance_clipped[1]
    assert schedule.posterior_mean(x0, xt, 0).item() == pytest.approx(0.37)


def test_noised_images_have_the_schedule_s_mean_and_deviation() -> None:
    schedule = respaced(linear_schedule(), "100")
    generator = torch.Generator().manual_seed(5)
    x0 = torch.tensor([-1.0, 0.0, 0.8]).view(3, 1, 1, 1).expand(3, 3, 200, 200)
    index = torch.tensor([99, 3, 50])
    noised = schedule.q_sample(x0, index, torch.randn(x0.shape, generator=generator))
    assert noised.dtype == torch.float32
    count = 3 * 200 * 200
    for row, step in enumerate(index.tolist()):
        bar = float(schedule.alphas_cumprod[step])
        deviation = math.sqrt(1 - bar)
        mean_error = noised[row].mean().item() - math.sqrt(bar) * x0[row, 0, 0, 0].item()
        assert abs(mean_error) < 5 * deviation / math.sqrt(count)
        assert noised[row].std().item() == pytest.approx(deviation, rel=5 / math.sqrt(2 * count))


def test_step_by_step_noise_adds_up_to_the_closed_form() -> None:
    """Single steps of variance beta, one after another, reach q_sample's mean and variance."""
    schedule = respaced(linear_schedule(), "ddim25")
    mean, variance = 1.0, 0.0
    for index, beta in enumerate(schedule.betas.tolist()):
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        assert schedule.q_sample(one, index, 0 * one).item() == pytest.approx(mean, rel=1e-12)
        assert schedule.q_sample(0 * one, index, one).item() ** 2 == pytest.approx(variance, rel=1e-12)


def test_epsilon_and_the_clean_image_are_two_views_of_one_thing() -> None:
    schedule = linear_schedule()
    x0, noise = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    index = torch.tensor([0, 300, 747, 999])
    noised = schedule.q_sample(x0, index, noise)
    torch.testing.assert_close(schedule.x0_from_epsilon(noised, index, noise), x0, rtol=1e-9, atol=1e-9)


def test_a_respaced_process_has_the_original_s_alpha_bar() -> None:
    whole = linear_schedule()
    for respacing in ("100", "7", "10,15,20", "ddim50"):
        part = respaced(whole, respacing)
        torch.testing.assert_close(
            part.alphas_cumprod, whole.alphas_cumprod[part.timestep_map], rtol=1e-12, atol=0
        )
    twice = respaced(respaced(whole, "100"), "10")
    assert (
        twice.timestep_map.tolist() == respaced(whole, "100").timestep_map[spaced_steps(100, "10")].tolist()
    )


def test_spacing_is_even_and_rounded() -> None:
    """Against numpy's even spacing, wherever no step lies exactly between two."""
    compared = 0
    for count in range(2, 1001):
        travelled = 999 * np.arange(count)
        if ((2 * travelled % (count - 1) == 0) & (travelled % (count - 1) != 0)).any():
            continue
        compared += 1
        assert spaced_steps(1000, str(count)) == np.linspace(0, 999, count).round().astype(int).tolist()
    assert compared > 400
    hundred = spaced_steps(1000, "100")
    assert (len(hundred), hundred[:4], hundred[74], hundred[-1]) == (100, [0, 10, 20, 30], 747, 999)


def test_strides_are_added_up_and_halves_go_to_the_even_number() -> None:
    # 499.5 exactly: the even neighbour
    assert spaced_steps(1000, "3") == [0, 500, 999]
    assert spaced_steps(8, "3") == [0, 4, 7]
    # 10 x 49.95 is 499.5, whose even neighbour is 500; ten times 49.95 added up is a little less
    assert spaced_steps(1000, "21")[10] == 499


def test_sections_and_strides() -> None:
    sections = [100 * part + np.linspace(0, 99, count).round() for part, count in enumerate((10, 16, 20))]
    assert spaced_steps(300, "10,16,20") == np.concatenate(sections).astype(int).tolist()
    assert spaced_steps(300, [10, 16, 20]) == spaced_steps(300, "10,16,20")
    # the middle of 15 steps through 100 is 49.5, less what adding up loses
    assert spaced_steps(300, "10,15,20")[17] == 149
    # 1000 in three: 334, 333 and 333 steps
    assert spaced_steps(1000, "2,2,2") == [0, 333, 334, 666, 667, 999]
    assert spaced_steps(10, "1,0,1") == [0, 7]
    assert spaced_steps(1000, "1000") == list(range(1000))
    assert spaced_steps(1000, "ddim25") == list(range(0, 1000, 40))
    assert spaced_steps(1000, "ddim100") == list(range(0, 1000, 10))
    assert spaced_steps(1000, "ddim334") == list(range(0, 1000, 3))


@pytest.mark.parametrize(
    ("respacing", "told"),
    [
        ("0", "asks for no step"),
        ("", "is neither a count"),
        ("fast", "is neither a count"),
        ("-5", "is neither a count"),
        ("10;20", "is neither a count"),
        ("ddim", "is neither a count"),
        ("1001", "asks for 1001 of the 1000 steps of section 1"),
        ("10,900", "asks for 900 of the 500 steps of section 2"),
        ("ddim300", "no whole stride through 1000 steps gives ddim300"),
        ("ddim10,20", "no whole stride"),
        ([], "asks for no step"),
        ([5, -1], "asks for no step"),
    ],
)
def test_what_cannot_be_spaced_is_refused(respacing: str | list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        respaced(linear_schedule(), respacing)


def test_wrong_schedules_and_indices_are_refused() -> None:
    schedule = linear_schedule()
    for index in (-1, 1000, torch.tensor([0, 1000]), torch.tensor([0.5]), torch.tensor(3)):
        with pytest.raises(ValueError, match=r"must be whole and in 0\.\.999"):
            schedule.timesteps(index, 2)
    with pytest.raises(ValueError, match="must be at least one, and increase"):
        schedule.keeping([3, 3])
    with pytest.raises(ValueError, match="at least one step"):
        linear_schedule(0)
    halves = torch.full((2,), 0.5, dtype=torch.float64)
    for betas, steps, told in (
        (halves.float(), [0, 1], "vector of float64"),
        (halves * 2, [0, 1], "between 0 and 1"),
        (halves, [0], "as many int64 original steps"),
        (halves, [1, 0], "must increase within 0..9"),
        (halves, [0, 10], "must increase within 0..9"),
    ):
        with pytest.raises(ValueError, match=told):
            NoiseSchedule(betas, torch.tensor(steps), 10)
