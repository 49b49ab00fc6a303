"""The identity loss's networks: published names and sizes, and agreement with straight-line references."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn

from models.identity.embedding import IdentityEmbedder
from models.identity.ir_se50 import IrSe50, load_ir_se50
from models.identity.ir_se_sizes import IrSeConfig
from models.identity.loss_networks import LOSS_NETWORKS, FaceEncoderConfig, LossNetworkName, frame_points
from models.identity.simswap_arcface import SimSwapArcFace, load_simswap_arcface
from models.identity.world_embedder import WorldEmbedder
from models.swap.cost_networks import IDENTITY_NETWORKS
from models.weight_files import WeightMismatch

SMALL = IrSeConfig(depths=(1, 2, 1, 1), channels=(16, 16, 32, 48), stem_channels=16, embedding_dim=24)

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def published_simswap() -> Shapes:
    """Names and shapes of the published file, spelled out independently of the network's code."""
    shapes: Shapes = {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (1,)} | norm("bn1", 64)
    before = 64
    for stage, (depth, width) in enumerate(zip((3, 4, 23, 3), (64, 128, 256, 512), strict=True), 1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            shapes |= (
                norm(f"{block}.bn0", before) | norm(f"{block}.bn1", before) | norm(f"{block}.bn2", width)
            )
            shapes |= {
                f"{block}.conv1.weight": (before, before, 3, 3),
                f"{block}.conv2.weight": (width, before, 3, 3),
                f"{block}.prelu.weight": (1,),
                f"{block}.se.fc.0.weight": (width // 16, width),
                f"{block}.se.fc.0.bias": (width // 16,),
                f"{block}.se.fc.1.weight": (1,),
                f"{block}.se.fc.2.weight": (width, width // 16),
                f"{block}.se.fc.2.bias": (width,),
            }
            if before != width:
                shapes[f"{block}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= norm(f"{block}.downsample.1", width)
            before = width
    shapes |= norm("bn2", 512) | norm("bn3", 512)
    return shapes | {"fc.weight": (512, 25088), "fc.bias": (512,)}


def published_ir_se50() -> Shapes:
    shapes: Shapes = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,)}
    shapes |= norm("input_layer.1", 64)
    before, index = 64, 0
    for depth, width in zip((3, 4, 14, 3), (64, 128, 256, 512), strict=True):
        for _ in range(depth):
            block = f"body.{index}.res_layer"
            shapes |= norm(f"{block}.0", before) | norm(f"{block}.4", width)
            shapes |= {
                f"{block}.1.weight": (width, before, 3, 3),
                f"{block}.2.weight": (width,),
                f"{block}.3.weight": (width, width, 3, 3),
                f"{block}.5.fc1.weight": (width // 16, width, 1, 1),
                f"{block}.5.fc2.weight": (width, width // 16, 1, 1),
            }
            if before != width:
                shapes[f"body.{index}.shortcut_layer.0.weight"] = (width, before, 1, 1)
                shapes |= norm(f"body.{index}.shortcut_layer.1", width)
            before, index = width, index + 1
    shapes |= norm("output_layer.0", 512) | norm("output_layer.4", 512)
    return shapes | {"output_layer.3.weight": (512, 25088), "output_layer.3.bias": (512,)}


@pytest.mark.parametrize(
    ("make", "published", "parameters"),
    [(SimSwapArcFace, published_simswap, 52_193_215), (IrSe50, published_ir_se50, 43_797_696)],
)
def test_names_and_sizes_are_the_published_ones(
    make: Callable[[], nn.Module], published: Callable[[], Shapes], parameters: int
) -> None:
    with torch.device("meta"):
        network = make()
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == published()
    assert sum(value.numel() for value in network.parameters()) == parameters


def random_state(network: nn.Module) -> State:
    """Numbers that matter everywhere: no scale of 1, no shift of 0, no variance near 0."""
    generator = torch.Generator().manual_seed(7)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            noise = noise / value[0].numel() ** 0.5
        elif name.endswith(("running_var", "weight")):
            noise = 0.25 + noise.abs().clamp(max=1) * 0.15 if value.numel() == 1 else 0.6 + noise.abs() * 0.4
        state[name] = noise * (0.2 if name.endswith(("bias", "running_mean")) else 1)
    return state


def normalised(state: State, x: Tensor, name: str) -> Tensor:
    view = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = state[f"{name}.running_mean"].view(view), state[f"{name}.running_var"].view(view)
    scaled = (x - mean) / (variance + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"].view(view) + state[f"{name}.bias"].view(view)


def sloped(state: State, x: Tensor, name: str) -> Tensor:
    slope = state[f"{name}.weight"].view((1, -1) + (1,) * (x.ndim - 2))
    return torch.where(x > 0, x, x * slope)


def convolved(state: State, x: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
    return functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)


def straight_simswap(state: State, x: Tensor) -> Tensor:
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    x = sloped(state, normalised(state, convolved(state, x, "conv1", padding=0), "bn1"), "prelu")
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    for stage, depth in enumerate(SMALL.depths, 1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            y = convolved(state, normalised(state, x, f"{block}.bn0"), f"{block}.conv1")
            y = sloped(state, normalised(state, y, f"{block}.bn1"), f"{block}.prelu")
            y = normalised(state, convolved(state, y, f"{block}.conv2", stride), f"{block}.bn2")
            fc = f"{block}.se.fc"
            gate = y.mean(dim=(2, 3)) @ state[f"{fc}.0.weight"].T + state[f"{fc}.0.bias"]
            gate = sloped(state, gate, f"{fc}.1") @ state[f"{fc}.2.weight"].T + state[f"{fc}.2.bias"]
            y = y / (1 + (-gate).exp())[:, :, None, None]
            if f"{block}.downsample.0.weight" in state:
                x = convolved(state, x, f"{block}.downsample.0", stride, padding=0)
                x = normalised(state, x, f"{block}.downsample.1")
            x = sloped(state, x + y, f"{block}.prelu")
    x = normalised(state, x, "bn2").reshape(len(x), -1) @ state["fc.weight"].T + state["fc.bias"]
    return normalised(state, x, "bn3")


def straight_ir_se50(state: State, x: Tensor) -> Tensor:
    x = normalised(state, convolved(state, x * 2 - 1, "input_layer.0"), "input_layer.1")
    x = sloped(state, x, "input_layer.2")
    strides = [2 if index == 0 else 1 for depth in SMALL.depths for index in range(depth)]
    for number, stride in enumerate(strides):
        block = f"body.{number}.res_layer"
        y = convolved(state, normalised(state, x, f"{block}.0"), f"{block}.1")
        y = convolved(state, sloped(state, y, f"{block}.2"), f"{block}.3", stride)
        y = normalised(state, y, f"{block}.4")
        gate = y.mean(dim=(2, 3)) @ state[f"{block}.5.fc1.weight"][:, :, 0, 0].T
        gate = gate.clamp(min=0) @ state[f"{block}.5.fc2.weight"][:, :, 0, 0].T
        y = y / (1 + (-gate).exp())[:, :, None, None]
        shortcut = f"body.{number}.shortcut_layer"
        if f"{shortcut}.0.weight" in state:
            x = normalised(state, convolved(state, x, f"{shortcut}.0", stride, padding=0), f"{shortcut}.1")
        else:
            x = x[:, :, ::stride, ::stride]
        x = x + y
    x = normalised(state, x, "output_layer.0").reshape(len(x), -1)
    x = x @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    x = normalised(state, x, "output_layer.4")
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize(
    ("make", "load", "straight"),
    [
        (SimSwapArcFace, load_simswap_arcface, straight_simswap),
        (IrSe50, load_ir_se50, straight_ir_se50),
    ],
    ids=["simswap_arcface", "ir_se50"],
)
def test_numbers_batches_gradients_and_strict_files(
    make: Callable, load: Callable, straight: Callable[[State, Tensor], Tensor], tmp_path: Path
) -> None:
    state = random_state(make(SMALL))
    path = tmp_path / "network.safetensors"
    save_file(state, path)
    network = load(path, config=SMALL)
    x = torch.rand((3, 3, 112, 112), generator=torch.Generator().manual_seed(1), requires_grad=True)
    embedded = network(x)
    assert embedded.shape == (3, 24)
    torch.testing.assert_close(embedded, straight(state, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedded[1:2], network(x[1:2]), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(embedded[:, 0].sum(), x)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in network.parameters())
    with pytest.raises(ValueError, match=r"\(B, 3, 112, 112\), got \(1, 3, 64, 64\)"):
        network(torch.zeros(1, 3, 64, 64))
    name = next(key for key in state if key.endswith("bias"))
    del state[name]
    save_file(state, path)
    with pytest.raises(WeightMismatch, match=f"1 missing: {name}"):
        load(path, config=SMALL)


def test_points_in_the_frame_follow_both_axes() -> None:
    """A frame is the whole photo resized to a square; each axis has a scale of its own."""
    landmarks = np.random.default_rng(0).uniform(0, 300, (2, 68, 2))
    sizes = np.array([[400, 200], [320, 640]])
    points = frame_points("dlib", landmarks, sizes, 32)
    assert points.shape == (2, 5, 2)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[0, 4], landmarks[0, 33] * (32 / 400, 32 / 200), rtol=1e-5)
    np.testing.assert_allclose(points[1, 0], landmarks[1, 45] * (32 / 320, 32 / 640), rtol=1e-5)
    eyes = frame_points("ir_se50", landmarks, sizes, 64)[1, 0]
    np.testing.assert_allclose(eyes, landmarks[1, 36:42].mean(axis=0) * (64 / 320, 64 / 640), rtol=1e-5)
    assert frame_points("dlib", landmarks[:0], sizes[:0], 32).shape == (0, 5, 2)
    with pytest.raises(ValueError, match=r"photo sizes \(2, 2\), got \(1, 2\)"):
        frame_points("dlib", landmarks, sizes[:1], 32)


def test_settings_that_do_not_fit_are_refused() -> None:
    assert FaceEncoderConfig().facts is LOSS_NETWORKS["simswap_arcface"]
    assert FaceEncoderConfig(network="dlib").embedding_size == 128
    with pytest.raises(ValueError, match="reface_crop is REFace's crop for ir_se50, not for dlib"):
        FaceEncoderConfig(network="dlib", crop="reface_crop")
    one_shape: tuple[LossNetworkName, ...] = ("dlib", "world")
    for network in one_shape:
        with pytest.raises(ValueError, match=f"the network {network} has one shape"):
            FaceEncoderConfig(network=network, shape=SMALL)


def test_the_facts_are_those_of_the_networks() -> None:
    assert {name: facts.size for name, facts in LOSS_NETWORKS.items()} == {
        name: size for name, (_, size) in IDENTITY_NETWORKS.items()
    }
    embedders: dict[LossNetworkName, str] = {"dlib": IdentityEmbedder.name, "world": WorldEmbedder.name}
    for network, name in embedders.items():
        assert FaceEncoderConfig(network=network).embeds_as(name)
        assert not FaceEncoderConfig(network=network, crop="nearest_full_frame").embeds_as(name)
        assert not FaceEncoderConfig(network="ir_se50").embeds_as(name)
