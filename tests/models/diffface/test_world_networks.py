"""The small networks that guide swaps of the procedural world: data, training, files and figures."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.diffface.experts.gaze_network import GazeNetworkConfig
from models.diffface.network_files import NetworkFileError
from models.diffface.world_expert_data import (
    ExpertPoolConfig,
    build_expert_pool,
    gaze_angles,
    mirrored_classes,
)
from models.diffface.world_expert_evaluation import (
    GATE_GAZE,
    GATE_MEAN_IOU,
    angles_between,
    class_ious,
    evaluate_gaze,
    evaluate_parser,
)
from models.diffface.world_experts_training import ExpertRecipe, class_weights, train_gaze, train_parser
from models.diffface.world_gaze import (
    WorldGaze,
    eye_batch,
    load_world_gaze,
    save_world_gaze,
    world_gaze_config,
)
from models.diffface.world_parser import WorldParser, load_world_parser, save_world_parser
from models.worlds import sample_attributes, sample_identities
from models.worlds.sampling import held_out_seed

SHIPPED = Path(str(importlib.resources.files("models.diffface"))) / "checkpoints"
RECIPE = ExpertRecipe(steps=4, batch_size=3, warmup_steps=1, checkpoint_interval=2, large_share=0.5)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    torch.set_num_threads(1)
    config = ExpertPoolConfig(seed=held_out_seed(0), faces=40)
    return build_expert_pool(config, tmp_path_factory.mktemp("faces"), lambda line: None)


def test_gaze_is_the_heads_rotation_of_the_eyes(pool):
    people, photos = sample_identities(2, 30), sample_attributes(2, 30)
    for person, photo, found in zip(
        people.records(), photos.records(), gaze_angles(people, photos), strict=True
    ):
        height = person["eye_height"] * (1 - 0.85 * photo["blink"]) * (1 - 0.12 * max(photo["smile"], 0))
        across = 0.4 * photo["gaze_x"] / 0.8
        up = 0.3 * photo["gaze_y"] * height / (0.8 * person["eye_width"])
        yaw, pitch, roll = (float(photo[name]) for name in ("yaw", "pitch", "roll"))
        turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        x, y, z = tilt @ nod @ turn @ [across, up, np.sqrt(1 - across**2 - up**2)]
        np.testing.assert_allclose(found, [np.arcsin(y), np.arctan2(x, z)], atol=1e-6)
    same = angles_between(np.array([[0.1, 0.2]]), np.array([[0.1, 0.2]]))
    right = angles_between(np.array([[0.0, 0.0]]), np.array([[0.0, np.pi / 3]]))
    np.testing.assert_allclose([*same, *right], [0.0, 60.0], atol=1e-4)


def test_points_of_an_eye_are_where_the_crop_shows_them(pool):
    """A bright dot at an iris' centre is brightest in the crop where its heat map is to peak."""
    config = GazeNetworkConfig(nstack=1, nlandmarks=11, height=48, width=80, levels=2)
    side, row = 256, 3
    images = torch.zeros(1, 3, side, side)
    centres = pool.eyes_N2K2[row, :, 6] * side
    for x, y in centres:
        images[0, :, int(y), int(x)] = 1.0
    parts = (pool.landmarks_N682[row][None], pool.eyes_N2K2[row][None], pool.gaze_N2[row][None])
    eyes, points, gaze = eye_batch(images, *parts, config)
    assert tuple(eyes.shape) == (2, 1, 48, 80)
    assert torch.equal(gaze[0], gaze[1])
    for eye in range(2):
        peak = np.unravel_index(int(eyes[eye, 0].argmax()), (48, 80))
        # within the pixel of the picture that the dot fills, on heat maps of half the crop's size
        pixel = [
            48 / (18 / 256 * side),
            80 / ((parts[0][0, 39 + 6 * eye, 0] - parts[0][0, 36 + 6 * eye, 0]) * side),
        ]
        apart = np.abs(points[eye, 6].numpy() * 2 - peak)
        assert (apart <= np.array(pixel) + 1.5).all(), (eye, apart, pixel)


def test_mirrored_classes_exchange_left_and_right():
    row = np.array([[[0, 2, 4, 7, 10, 17]]], np.uint8)
    assert mirrored_classes(row).tolist() == [[[17, 10, 8, 5, 3, 0]]]
    assert np.array_equal(mirrored_classes(mirrored_classes(row)), row)


def test_ious_and_weights_of_classes(pool):
    exact = np.array([[[1, 1, 1, 10], [4, 4, 0, 0]]], np.uint8)
    found = np.array([[[1, 1, 10, 10], [4, 0, 0, 4]]], np.uint8)
    ious = class_ious(found, exact)
    assert ious[1] == pytest.approx(2 / 3)
    assert ious[10] == pytest.approx(1 / 2)
    assert ious[4] == pytest.approx(1 / 3)
    assert np.isnan(ious[5])
    weights = class_weights(pool)
    assert weights[4] > weights[1] >= 0.5  # an eye is rarer than skin
    assert weights[15] == 0  # the world has no necklace


def test_networks_are_small_and_differentiable():
    parser, gaze = WorldParser().eval(), WorldGaze().eval()
    for network in (parser, gaze):
        assert sum(value.numel() for value in network.parameters()) <= 250_000
    for height, width in ((32, 32), (64, 64), (16, 40)):
        images = torch.rand(1, 3, height, width, requires_grad=True)
        logits = parser(images)
        assert tuple(logits.shape) == (1, 19, height, width)
        logits.square().sum().backward()
        assert images.grad is not None
        assert float(images.grad.abs().amin(dim=1).max()) > 0
    with pytest.raises(ValueError, match="multiples of 8"):
        parser(torch.rand(1, 3, 30, 32))
    eyes = torch.rand(2, 1, 24, 40, requires_grad=True)
    gaze.gaze(eyes).sum().backward()
    assert eyes.grad is not None
    assert float(eyes.grad.abs().max()) > 0


@pytest.mark.parametrize(("train", "name"), [(train_parser, "parser"), (train_gaze, "gaze")])
def test_training_goes_on_where_it_was_killed(train, name, pool, tmp_path, monkeypatch):
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    whole = train(pool, RECIPE, tmp_path / "whole")

    class Killed(Exception):
        pass

    real = ExpertRecipe.rate

    def rate(recipe, step):
        if step == 3:
            raise Killed
        return real(recipe, step)

    with monkeypatch.context() as patch:
        patch.setattr(ExpertRecipe, "rate", rate)
        with pytest.raises(Killed):
            train(pool, RECIPE, tmp_path / "broken")
    resumed = train(pool, RECIPE, tmp_path / "broken")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    logs = [(tmp_path / folder / f"{name}_losses.jsonl") for folder in ("whole", "broken")]
    assert [json.loads(line)["step"] for line in logs[1].read_text().splitlines()] == [4]
    with pytest.raises(ValueError, match="another recipe"):
        train(pool, RECIPE.model_copy(update={"seed": 1}), tmp_path / "broken")


def test_files_bring_back_the_network_and_refuse_others(pool, tmp_path):
    torch.manual_seed(0)
    parser, gaze = WorldParser().eval(), WorldGaze().eval()
    save_world_parser(tmp_path / "parser", parser)
    save_world_gaze(tmp_path / "gaze", gaze)
    images, eyes = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 24, 40)
    with torch.no_grad():
        again = load_world_parser(tmp_path / "parser")(images)
        # float16 holds weights to three digits
        torch.testing.assert_close(again, parser(images), rtol=0, atol=5e-3)
        looks = load_world_gaze(tmp_path / "gaze")
        torch.testing.assert_close(looks.gaze(eyes), gaze.gaze(eyes), rtol=0, atol=5e-3)
    assert looks.config == world_gaze_config()
    with pytest.raises(NetworkFileError, match="wanted is 'orchard-world-gaze-1'"):
        load_world_gaze(tmp_path / "parser")
    (tmp_path / "text").write_text("no network")
    with pytest.raises(NetworkFileError, match="cannot be read"):
        load_world_parser(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="no network"):
        load_world_parser(tmp_path / "nothing")


def test_an_untrained_gaze_network_does_not_pass(pool):
    torch.manual_seed(0)
    report = evaluate_gaze(WorldGaze().eval(), pool, pool)
    assert not report["passed"]
    assert report["32 px"]["degrees_constant"] > 10


def test_shipped_parser_parses_people_it_never_saw(pool):
    report = evaluate_parser(load_world_parser(SHIPPED / "world_parser.safetensors"), pool)
    stored = json.loads((SHIPPED / "world_parser_gate.json").read_text())
    assert stored["passed"]
    for size in ("32 px", "64 px"):
        assert report[size]["mean_iou"] > GATE_MEAN_IOU
        assert report[size]["mean_iou"] == pytest.approx(stored[size]["mean_iou"], abs=0.06)


def test_shipped_gaze_network_sees_where_strangers_look(pool):
    """The mean of these few people stands in for that of training, whose guess is no better for it."""
    report = evaluate_gaze(load_world_gaze(SHIPPED / "world_gaze.safetensors"), pool, pool)
    stored = json.loads((SHIPPED / "world_gaze_gate.json").read_text())
    assert stored["passed"]
    assert stored["over_constant"] <= GATE_GAZE
    assert report["over_constant"] < 0.9
    for size in ("32 px", "64 px"):
        assert report[size]["points_px"] < 0.7 * report[size]["points_px_constant"]
