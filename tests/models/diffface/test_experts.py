"""The experts one by one, against straight-line references."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.diffface.compat import CompatConfig
from models.diffface.experts.augmentation import random_views, view_matrices
from models.diffface.experts.expert import SwapPair
from models.diffface.experts.gaze import GazeExpert, eye_boxes, eye_crops
from models.diffface.experts.gaze_network import GazeNetwork, GazeNetworkConfig, soft_argmax
from models.diffface.experts.identity import IdentityExpert
from models.diffface.experts.parsing import FaceParsing, ParsingExpert
from models.diffface.experts.pixel import PixelExpert
from models.diffface.randomness import Draw, Moment
from models.diffface.settings import DiffFaceSettings
from models.faces.bisenet import BiSeNet, parser_input
from models.faces.network_sizes import BiSeNetConfig, ResNetConfig
from models.identity.loss_networks import FaceEncoderConfig
from models.swap.identity_crop import CroppedFaceEncoder

NINE = [1, 2, 3, 4, 5, 10, 11, 12, 13]


def moment(rows: int = 1, index: int = 4) -> Moment:
    return Moment(index, [Draw(404, row, 0) for row in range(rows)])


@pytest.fixture(scope="module")
def pairs(small_diffface) -> list[SwapPair]:
    return [small_diffface.inputs.pair(row, torch.device("cpu")) for row in range(3)]


@pytest.fixture(scope="module")
def noisy(pairs: list[SwapPair]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    targets = torch.stack([pair.target_3HW for pair in pairs])
    return targets + 0.1 * torch.randn(targets.shape, generator=generator)


def test_views_are_counted_seeded_by_row_and_differentiable(noisy: Tensor) -> None:
    images = noisy.clone().requires_grad_()
    views = random_views(images, 8, moment(3))
    assert views.shape == (3, 8, 3, 32, 32)
    assert torch.equal(views[:, 0], images)
    (slope,) = torch.autograd.grad(views.square().sum(), images)
    assert (slope.abs().sum(dim=(1, 2, 3)) > 0).all()
    alone = random_views(noisy[1:2], 8, Moment(4, [Draw(404, 1, 0)]))
    torch.testing.assert_close(alone[0], views[1].detach(), atol=1e-6, rtol=0)
    moved = (views[:, 1:] - views[:, :1]).abs().mean(dim=(2, 3, 4))
    assert (moved > 1e-3).float().mean() > 0.7  # 91 % get one of the two transforms
    for other in (moment(3, index=5), Moment(4, [Draw(405, row, 0) for row in range(3)])):
        assert not torch.allclose(random_views(noisy, 8, other), views)
    assert torch.equal(random_views(noisy, 1, moment(3))[:, 0], noisy)


def test_views_are_what_opencv_warps(noisy: Tensor) -> None:
    draws = [Draw(404, 0, 0)]
    affine, perspective = (part.numpy() for part in view_matrices(draws, 4, 7, 32, 32))
    views = random_views(noisy[:1], 8, Moment(4, draws))[0, 1:].permute(0, 2, 3, 1).numpy()
    picture = noisy[0].permute(1, 2, 0).numpy()
    for view, turn, tilt in zip(views, affine, perspective, strict=True):
        expected = cv2.warpPerspective(picture, turn, (32, 32), borderMode=cv2.BORDER_REPLICATE)
        expected = cv2.warpPerspective(expected, tilt, (32, 32))
        # OpenCV interpolates at thirty-seconds of a pixel
        assert np.abs(view - expected).mean() < 0.01


def test_views_stay_within_their_ranges() -> None:
    draws = [Draw(1, row, 0) for row in range(100)]
    affine, perspective = view_matrices(draws, 0, 20, 112, 112)
    turned = (affine - torch.eye(3)).abs().amax(dim=(1, 2)) > 0
    assert abs(float(turned.double().mean()) - 0.7) < 0.03
    angles = torch.atan2(affine[turned, 1, 0], affine[turned, 0, 0]).rad2deg()
    assert 14 < float(angles.abs().max()) <= 15
    centre = affine @ torch.tensor([55.5, 55.5, 1.0], dtype=torch.float64)
    shifts = (centre[:, :2] - 55.5).abs()
    assert 11 < float(shifts.max()) <= 11.2
    corner = perspective @ torch.tensor([111.0, 0.0, 1.0], dtype=torch.float64)
    corner = corner[:, :2] / corner[:, 2:]
    tilted = (perspective - torch.eye(3)).abs().amax(dim=(1, 2)) > 0
    assert abs(float(tilted.double().mean()) - 0.7) < 0.03
    assert 111 * 0.64 < float(corner[:, 0].min()) < 111 * 0.66
    assert float(corner[:, 0].max()) <= 111 + 1e-9


def test_the_identity_loss_is_the_mean_over_views(small_diffface, pairs, noisy) -> None:
    settings = small_diffface.settings(aug_num=3)
    expert = IdentityExpert(small_diffface.embedder)
    prepared = [expert.prepare(pair, settings) for pair in pairs]
    losses = expert.loss_B(noisy, prepared, settings, moment(3))
    facts = small_diffface.embedder.config.facts
    for row, pair in enumerate(pairs):
        landmarks = small_diffface.inputs.target_landmarks[row]
        points = torch.from_numpy(facts.five_points(landmarks))[None]
        crop = small_diffface.embedder.crop(noisy[row : row + 1] * pair.mask_1HW, points)
        views = random_views(crop, 3, Moment(4, [Draw(404, row, 0)]))[0]
        embeddings = functional.normalize(small_diffface.embedder.network(views), dim=1)
        expected = 1 - functional.cosine_similarity(embeddings, pair.identity_D[None]).mean()
        torch.testing.assert_close(losses[row], expected, atol=1e-5, rtol=0)
    in_context = IdentityExpert(small_diffface.embedder, surroundings="target")
    assert not torch.allclose(in_context.loss_B(noisy, prepared, settings, moment(3)), losses)


def test_identity_by_the_published_crop_embeds_the_source_anew(small_diffface, pairs, noisy) -> None:
    settings = small_diffface.settings(aug_num=1, compat=CompatConfig(nearest_identity_crop=True))
    expert = IdentityExpert(small_diffface.embedder)
    prepared = expert.prepare(pairs[0], settings)
    size = small_diffface.embedder.config.facts.size
    network = small_diffface.embedder.network
    source = functional.interpolate(pairs[0].source_3HW[None], (size, size), mode="nearest")
    seen = functional.adaptive_avg_pool2d(noisy[:1] * pairs[0].mask_1HW, size)
    expected = 1 - functional.cosine_similarity(network(seen), network(source))
    found = expert.loss_B(noisy[:1], [prepared], settings, moment())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_identity_compares_with_the_source_photograph_where_asked(small_diffface, pairs) -> None:
    settings = small_diffface.settings()
    expert = IdentityExpert(small_diffface.embedder, reference="source_photograph")
    prepared = expert.prepare(pairs[0], settings)
    unrelated = IdentityExpert(small_diffface.embedder).prepare(pairs[0], settings)
    assert not torch.allclose(prepared.tensors["reference"], unrelated.tensors["reference"])
    itself = replace(
        pairs[0],
        target_3HW=pairs[0].source_3HW,
        target_landmarks_682=pairs[0].source_landmarks_682,
    )
    kept = expert.prepare(itself, settings)
    assert float(expert.distance_B(pairs[0].source_3HW[None], [kept], settings)[0]) < 1e-5
    with pytest.raises(ValueError, match="source_landmarks"):
        expert.prepare(replace(pairs[0], source_landmarks_682=None), settings)


def test_identity_says_what_it_cannot_do(small_diffface, pairs, noisy) -> None:
    settings = small_diffface.settings()
    expert = IdentityExpert(small_diffface.embedder)
    lost = expert.prepare(replace(pairs[1], target_landmarks_682=None), settings)
    assert "no landmarks" in str(lost.note)
    prepared = [expert.prepare(pairs[0], settings), lost]
    both = expert.loss_B(noisy[:2], prepared, settings, moment(2))
    first = expert.loss_B(noisy[:1], prepared[:1], settings, moment())
    torch.testing.assert_close(both[:1], first, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="has 64 numbers"):
        expert.prepare(replace(pairs[0], identity_D=torch.ones(64)), settings)
    config = FaceEncoderConfig(network="world", crop="nearest_full_frame")
    unaligned = CroppedFaceEncoder(small_diffface.embedder.network, config)
    with pytest.raises(ValueError, match="crop aligned"):
        IdentityExpert(unaligned)


def test_the_parsing_loss_sums_nine_classes_of_raw_logits(small_diffface, pairs, noisy) -> None:
    settings = small_diffface.settings()
    expert = ParsingExpert(small_diffface.parsing)
    prepared = [expert.prepare(pair, settings) for pair in pairs]
    losses = expert.loss_B(noisy, prepared, settings, moment(3))
    for row, pair in enumerate(pairs):
        one = small_diffface.parsing.logits(noisy[row : row + 1], double_normalisation=False)[0]
        other = small_diffface.parsing.logits(pair.target_3HW[None], double_normalisation=False)[0]
        expected = sum((one[code] - other[code]).abs().mean() for code in NINE)
        torch.testing.assert_close(losses[row], expected, atol=1e-5, rtol=1e-5)
    targets = torch.stack([pair.target_3HW for pair in pairs])
    assert not expert.loss_B(targets, prepared, settings, moment(3)).abs().max() > 1e-5


@pytest.mark.parametrize("double", [False, True])
def test_bisenet_is_shown_512_pixels_on_its_own_scale(noisy: Tensor, double: bool) -> None:
    torch.manual_seed(0)
    backbone = ResNetConfig(block="basic", depths=(1, 1, 1, 1), width=4)
    network = BiSeNet(BiSeNetConfig(backbone=backbone)).eval()
    with torch.no_grad():
        found = FaceParsing.bisenet(network).logits(noisy[:1], double_normalisation=double)
        enlarged = functional.interpolate(noisy[:1], (512, 512), mode="bilinear")
        logits = network(parser_input(enlarged, double_normalisation=double))
        expected = functional.interpolate(logits, (32, 32), mode="bilinear")
    torch.testing.assert_close(found, expected)


def test_the_published_gaze_network_has_its_published_size() -> None:
    with torch.device("meta"):
        network = GazeNetwork()
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_567_432
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["pre.0.conv.weight"] == (64, 1, 7, 7)
    assert shapes["pre2.0.conv.weight"] == (64, 32, 7, 7)
    assert shapes["hgs.2.0.low2.low2.low2.low2.conv2.conv.weight"] == (16, 16, 3, 3)
    assert shapes["merge_preds.1.conv.conv.weight"] == (32, 34, 1, 1)
    assert shapes["gaze_fc1.weight"] == (256, 7748)
    with pytest.raises(ValueError, match="expected eyes"):
        network(torch.rand(2, 1, 90, 150, device="meta"))
    with pytest.raises(ValueError, match="multiples of 8"):
        GazeNetworkConfig(height=90, width=150)


def test_soft_argmax_finds_peaks_as_row_and_column() -> None:
    maps = torch.zeros(1, 2, 12, 20)
    maps[0, 0, 3, 17] = 1.0
    maps[0, 1, 10, 2] = maps[0, 1, 10, 4] = 1.0
    found = soft_argmax(maps)
    torch.testing.assert_close(found[0], torch.tensor([[3.0, 17.0], [10.0, 3.0]]), atol=1e-3, rtol=0)


def test_eyes_are_cut_at_the_landmarks() -> None:
    landmarks = torch.zeros(1, 68, 2)
    landmarks[0, 36:42] = torch.tensor([[10.0, 20], [12, 18], [15, 18], [18, 20], [15, 22], [12, 22]])
    landmarks[0, 42:48] = landmarks[0, 36:42] + torch.tensor([20.0, 2.0])
    box = eye_boxes(landmarks, 256, 96, 160, "box")[0]
    assert box.tolist() == [[5, 11, 23, 29], [25, 13, 43, 31]]
    outline = eye_boxes(landmarks, 256, 96, 160, "outline")[0]
    torch.testing.assert_close(outline[0], torch.tensor([14 - 6, 20 - 3.6, 14 + 6, 20 + 3.6]))
    ramp = torch.arange(64.0).expand(1, 3, 64, 64) + 0.5
    crops = eye_crops(ramp, outline[None], 6, 10)
    assert crops.shape == (1, 2, 6, 10)
    torch.testing.assert_close(crops[0, 0, 0], 8 + 12 * (torch.arange(10) + 0.5) / 10)


def test_the_gaze_loss_and_its_window(small_diffface, pairs, noisy) -> None:
    published = DiffFaceSettings()
    settings = small_diffface.settings()
    expert = GazeExpert(small_diffface.gaze_network)
    assert [index for index in range(75) if expert.weight(published, index)] == list(range(11, 50))
    assert expert.weight(published, 30) == 200
    lost = replace(pairs[1], target_landmarks_682=None)
    prepared = [expert.prepare(pair, settings) for pair in (pairs[0], lost, pairs[2])]
    assert prepared[0].note is None
    assert "no landmarks" in str(prepared[1].note)
    losses = expert.loss_B(noisy, prepared, settings, moment(3))
    assert losses[1] == 0
    network = small_diffface.gaze_network
    for row in (0, 2):
        landmarks = torch.from_numpy(small_diffface.inputs.target_landmarks[row])[None]
        boxes = eye_boxes(landmarks, 32, network.config.height, network.config.width, "outline")
        gazes = [
            network.gaze(
                eye_crops(images[None], boxes, network.config.height, network.config.width)[0, :, None]
            )
            for images in (noisy[row], pairs[row].target_3HW)
        ]
        expected = sum(functional.l1_loss(gazes[0][eye], gazes[1][eye]) for eye in range(2))
        torch.testing.assert_close(losses[row], expected, atol=1e-6, rtol=1e-4)


def test_the_pixel_loss_is_on_the_scale_of_the_diffusion(small_diffface, pairs, noisy) -> None:
    settings = small_diffface.settings()
    expert = PixelExpert()
    losses = expert.loss_B(noisy, [expert.prepare(pair, settings) for pair in pairs], settings, moment(3))
    for row, pair in enumerate(pairs):
        expected = functional.mse_loss(noisy[row] * 2 - 1, pair.target_3HW * 2 - 1)
        torch.testing.assert_close(losses[row], expected)
