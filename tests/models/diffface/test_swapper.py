"""The whole loop: what is guided, what is kept, and that rows do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.diffface.compat import CompatConfig
from models.diffface.denoiser import Denoiser
from models.diffface.experts.expert import Prepared, SwapPair
from models.diffface.experts.gaze import GazeExpert
from models.diffface.experts.identity import IdentityExpert
from models.diffface.experts.pixel import PixelExpert
from models.diffface.guidance import guidance_index, guided_prediction, limited
from models.diffface.randomness import Draw, Moment, Purpose
from models.diffface.respacing import respaced
from models.diffface.schedule import linear_schedule
from models.diffface.settings import DiffFaceSettings
from models.diffface.swap_results import StopReason


@dataclass(frozen=True)
class Quadratic:
    """strength / 2 |picture - goal|^2, whose gradient is known."""

    strength: float
    goal: float
    name: str = "quadratic"

    def weight(self, settings: DiffFaceSettings, index: int) -> float:
        return self.strength

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        return Prepared()

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        return (images_B3HW - self.goal).square().flatten(1).sum(dim=1) / 2


@dataclass(frozen=True)
class Overflowing(Quadratic):
    """Infinite in the rows whose target is brightest."""

    def prepare(self, pair: SwapPair, settings: DiffFaceSettings) -> Prepared:
        return Prepared({"brightness": pair.target_3HW.mean()})

    def loss_B(
        self, images_B3HW: Tensor, prepared: Sequence[Prepared], settings: DiffFaceSettings, moment: Moment
    ) -> Tensor:
        level = torch.stack([row.tensors["brightness"] for row in prepared])
        factor = torch.where(level == level.max(), torch.inf, 1.0)
        return super().loss_B(images_B3HW, prepared, settings, moment) * factor


@pytest.mark.parametrize("ddim", [False, True])
def test_a_quadratic_expert_moves_the_mean_by_its_variance(small_diffface, ddim: bool) -> None:
    """A straight-line loop in float64: a denoiser that predicts no noise makes every step analytic."""
    torch.manual_seed(0)
    blank = Denoiser(small_diffface.denoiser.config)  # epsilon 0, variance in the middle of its bounds
    strength, goal = 0.3, 0.7
    settings = small_diffface.settings(ddim=ddim)
    world = replace(small_diffface, denoiser=blank.eval())
    found = world.sample(settings, [1], [Quadratic(strength, goal)]).x_BCHW[0].double().numpy()

    inputs = small_diffface.rows([1])
    target = inputs.targets_NHWC[0].transpose(2, 0, 1) / 127.5 - 1
    mask = inputs.masks_NHW[0].astype(np.float64)
    draw = Draw(settings.seed, 1, 0)

    def noise(purpose: Purpose, step: int) -> np.ndarray:
        return torch.randn(3, 32, 32, generator=draw.generator(purpose, step)).double().numpy()

    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[0, 111, 222, 333, 444, 555, 666, 777, 888, 999]]
    before = np.concatenate([[1.0], kept[:-1]])
    beta = 1 - kept / before
    posterior = beta * (1 - before) / (1 - kept)
    x = np.sqrt(kept[3]) * target + np.sqrt(1 - kept[3]) * noise(Purpose.START, 3)
    for t in (3, 2, 1, 0):
        clean = x / np.sqrt(kept[t])
        share = np.sqrt(1 - kept[t])
        seen = (share * clean + (1 - share) * x + 1) / 2
        gradient = -strength * (seen - goal) / 2 * (share / np.sqrt(kept[t]) + 1 - share)
        if ddim:
            epsilon = -np.sqrt(1 - kept[t]) * gradient
            clean = (x - np.sqrt(1 - kept[t]) * epsilon) / np.sqrt(kept[t])
            x = np.sqrt(before[t]) * clean + np.sqrt(1 - before[t]) * epsilon
        else:
            variance = np.sqrt(beta[t] * (posterior[t] if t else posterior[1]))
            mean = np.sqrt(before[t]) * beta[t] / (1 - kept[t]) * clean
            mean += np.sqrt(1 - beta[t]) * (1 - before[t]) / (1 - kept[t]) * x
            x = mean + variance * gradient
            if t:
                x += np.sqrt(variance) * noise(Purpose.STEP, t)
        soft = min(1.0, (4 - (t + 1)) / (4 - 1)) * mask
        level = t - 1
        around = target
        if level >= 0:
            around = np.sqrt(kept[level]) * target + np.sqrt(1 - kept[level]) * noise(Purpose.BLEND, t)
        x = soft * x + (1 - soft) * around
    np.testing.assert_allclose(found, x, atol=2e-4)


def test_pixels_outside_the_mask_are_the_targets_to_the_bit(small_diffface) -> None:
    settings = small_diffface.settings(batch_size=3, loss_weight=60_000)
    result = small_diffface.swap(settings, (0, 1, 2))
    masks, targets = small_diffface.inputs.masks_NHW, small_diffface.inputs.targets_NHWC
    assert np.array_equal(result.images_NHWC[~masks], targets[~masks])
    assert (result.images_NHWC[masks] != targets[masks]).mean() > 0.8
    assert np.isfinite(result.distances_N).all()


@pytest.mark.parametrize("ddim", [False, True])
def test_an_empty_mask_gives_the_target_to_the_bit(small_diffface, ddim: bool) -> None:
    inputs = small_diffface.inputs
    result = small_diffface.swapper().swap(
        inputs.sources_NHWC[:1],
        inputs.identity_ND[:1],
        inputs.targets_NHWC[:1],
        np.zeros((1, 32, 32), bool),
        small_diffface.settings(ddim=ddim),
    )
    assert np.array_equal(result.images_NHWC, inputs.targets_NHWC[:1])


@pytest.mark.parametrize("ddim", [False, True])
def test_a_batch_is_its_rows_one_by_one(small_diffface, ddim: bool) -> None:
    weights = {"parsing": 20, "gaze": 20, "pixel": 5, "gaze_window": (0, 3)}
    settings = small_diffface.settings(loss_weight=600, expert_weights=weights, ddim=ddim)
    together = small_diffface.sample(settings, [0, 1, 2]).x_BCHW
    for row in range(3):
        alone = small_diffface.sample(settings, [row]).x_BCHW[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


def test_repeats_differ_are_ranked_and_do_not_depend_on_the_batch(small_diffface) -> None:
    one = small_diffface.swap(small_diffface.settings(iterations_num=3, batch_size=1), (0, 2))
    many = small_diffface.swap(small_diffface.settings(iterations_num=3, batch_size=4), (0, 2))
    assert one.images_NRHWC.shape == (2, 3, 32, 32, 3)
    assert np.abs(one.images_NRHWC.astype(int) - many.images_NRHWC).max() <= 1
    np.testing.assert_allclose(one.distances_NR, many.distances_NR, atol=1e-3)
    assert (one.images_NRHWC[0, 0] != one.images_NRHWC[0, 1]).mean() > 0.1
    assert np.array_equal(one.distances_N, one.distances_NR.min(axis=1))
    best = one.distances_NR[0].argmin()
    assert np.array_equal(one.images_NHWC[0], one.images_NRHWC[0, best])
    # the second pair alone, under its own number
    alone = small_diffface.swap(small_diffface.settings(iterations_num=3), (2,))
    assert np.abs(alone.images_NRHWC[0].astype(int) - one.images_NRHWC[1]).max() <= 1


def test_a_pair_is_prepared_once_for_all_its_repeats(small_diffface) -> None:
    seen: list[int] = []
    hook = small_diffface.gaze_network.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    try:
        small_diffface.swap(small_diffface.settings(iterations_num=3))
    finally:
        hook.remove()
    # both eyes of the target once; then both eyes in the two steps of the window, three times
    assert len(seen) == 1 + 3 * 2


def test_a_row_that_overflows_stops_with_a_reason_and_leaves_the_others(small_diffface) -> None:
    experts = [IdentityExpert(small_diffface.embedder), Overflowing(0.3, 0.7)]
    inputs = small_diffface.rows([0, 1, 2])
    settings = small_diffface.settings(batch_size=3)
    results = list(small_diffface.swapper(experts).stream(inputs, settings))
    stopped = int(inputs.targets_NHWC.mean(axis=(1, 2, 3)).argmax())
    assert [result.row for result in results if result.reason is not None] == [stopped]
    assert results[stopped].reason is StopReason.GRADIENT_NOT_FINITE
    assert np.isnan(results[stopped].distance)
    assert np.array_equal(results[stopped].image_HWC, inputs.targets_NHWC[stopped])
    calm = [IdentityExpert(small_diffface.embedder), Quadratic(0.3, 0.7)]
    for result in small_diffface.swapper(calm).stream(inputs, settings):
        if result.row != stopped:
            assert np.abs(result.image_HWC.astype(int) - results[result.row].image_HWC).max() <= 1


def test_the_gradient_is_limited_row_by_row() -> None:
    gradient = torch.stack([torch.full((3, 4, 4), 8.0), torch.full((3, 4, 4), -0.5), torch.zeros(3, 4, 4)])
    found = limited(gradient, 2.0)
    torch.testing.assert_close(found[0], torch.full((3, 4, 4), 2.0))
    assert torch.equal(found[1:], gradient[1:])
    huge = limited(torch.full((1, 3, 4, 4), 1e38), 2.0)
    torch.testing.assert_close(huge, torch.full((1, 3, 4, 4), 2.0))


def test_experts_that_are_silent_cost_no_gradient(small_diffface) -> None:
    settings = small_diffface.settings(loss_weight=0, expert_weights={"parsing": 0, "gaze": 0, "pixel": 0})
    schedule = respaced(linear_schedule(), "10")
    pair = small_diffface.inputs.pair(0, torch.device("cpu"))
    expert = PixelExpert()
    guided = guided_prediction(
        small_diffface.denoiser,
        torch.zeros(1, 3, 32, 32),
        pair.identity_D[None],
        schedule,
        [(expert, [expert.prepare(pair, settings)])],
        settings,
        Moment(2, [Draw(0, 0, 0)]),
    )
    assert guided.gradient_BCHW is None
    assert not guided.losses


def test_a_guidance_scale_is_a_factor_on_every_weight(small_diffface) -> None:
    schedule = respaced(linear_schedule(), "10")
    pair = small_diffface.inputs.pair(0, torch.device("cpu"))
    weights = {"parsing": 48.0, "gaze": 32.0, "pixel": 16.0, "gaze_window": (0, 3)}
    whole = small_diffface.settings(loss_weight=160.0, expert_weights=weights)
    smaller = {name: value / 16 for name, value in weights.items() if name != "gaze_window"}
    part = small_diffface.settings(loss_weight=10.0, expert_weights={**smaller, "gaze_window": (0, 3)})

    def gradient(settings: DiffFaceSettings, scale: float) -> torch.Tensor:
        guided = guided_prediction(
            small_diffface.denoiser,
            torch.zeros(1, 3, 32, 32),
            pair.identity_D[None],
            schedule,
            [(expert, [expert.prepare(pair, settings)]) for expert in small_diffface.experts()],
            settings,
            Moment(2, [Draw(0, 0, 0)]),
            scale,
        )
        assert set(guided.losses) == {"identity", "parsing", "gaze", "pixel"}
        assert guided.gradient_BCHW is not None
        return guided.gradient_BCHW

    assert torch.equal(gradient(whole, 1 / 16), gradient(part, 1.0))
    assert not torch.allclose(gradient(whole, 1.0), gradient(part, 1.0))


def test_guidance_finds_its_step_by_number() -> None:
    even, uneven = (respaced(linear_schedule(), spacing) for spacing in ("100", "4,6"))
    faulty = DiffFaceSettings(compat=CompatConfig(index_by_scaling=True))
    # the published conversion is exact for 100 even steps ...
    assert [guidance_index(even, index, faulty) for index in range(100)] == list(range(100))
    # ... and not for sections
    assert guidance_index(uneven, 3, faulty) == 4
    assert guidance_index(uneven, 3, DiffFaceSettings()) == 3


def test_what_does_not_fit_is_refused(small_diffface) -> None:
    inputs = small_diffface.rows([0])
    swapper = small_diffface.swapper()
    settings = small_diffface.settings()
    cases = [
        ({"sources_NHWC": inputs.sources_NHWC[:, :16]}, "sources must be uint8"),
        ({"masks_NHW": inputs.masks_NHW.astype(np.uint8)}, "masks must be bool"),
        ({"identity_ND": inputs.identity_ND[:, :64]}, "identities"),
        ({"identity_ND": inputs.identity_ND * np.nan}, "identity of row 0"),
        ({"row_numbers": (-1,)}, "numbers, 0 or more"),
        ({"target_landmarks": [np.zeros((5, 2), np.float32)]}, "target_landmarks of row 0"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            swapper.stream(replace(inputs, **changes), settings)
    with pytest.raises(ValueError, match="ask for cuda:1"):
        swapper.stream(inputs, small_diffface.settings(device="cuda", gpu_id=1))
    only_gaze = small_diffface.swapper([GazeExpert(small_diffface.gaze_network)])
    with pytest.raises(ValueError, match="ParsingExpert"):
        only_gaze.stream(inputs, small_diffface.settings(no_enforce_background=True))
    with pytest.raises(ValueError, match="names of their own"):
        small_diffface.swapper([PixelExpert(), PixelExpert()])


def test_notes_of_the_experts_come_with_the_result(small_diffface) -> None:
    inputs = small_diffface.inputs
    arrays = (inputs.sources_NHWC[:1], inputs.identity_ND[:1], inputs.targets_NHWC[:1], inputs.masks_NHW[:1])
    result = small_diffface.swapper().swap(*arrays, small_diffface.settings(), target_landmarks=[None])
    assert [note.partition(":")[0] for note in result.repeats[0][0].notes] == ["identity", "gaze"]
    with torch.inference_mode():  # callers often are in it
        again = small_diffface.swapper().swap(*arrays, small_diffface.settings(), target_landmarks=[None])
    assert np.array_equal(again.images_NHWC, result.images_NHWC)
