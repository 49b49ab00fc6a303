"""3DDFA-V3's networks: published names and sizes, and agreement with straight-line references."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn

from models.faces.network_sizes import ResNetConfig
from models.faces.reconstruction.backbone_mobilenet import (
    InvertedResidualPlan,
    MobileNetConfig,
    squeezed_channels,
)
from models.faces.reconstruction.coefficients import split_coefficients
from models.faces.reconstruction.network import (
    BACKBONES,
    BackboneName,
    ReconstructionNet,
    load_reconstruction_net,
)
from models.weight_files import WeightMismatch

Randomise = Callable[[nn.Module, int], dict[str, Tensor]]
Shapes = dict[str, tuple[int, ...]]

SMALL_RESNET = ResNetConfig(block="bottleneck", depths=(1, 2, 1, 1), width=4)
SMALL_MOBILENET = MobileNetConfig(
    stem=4,
    blocks=tuple(
        InvertedResidualPlan(
            kernel=kernel, expanded=inside, channels_out=out, squeezes=se, hard_swish=hs, stride=stride
        )
        for kernel, inside, out, se, hs, stride in (
            (3, 4, 4, False, False, 1),
            (3, 8, 6, False, False, 2),
            (5, 12, 6, True, False, 1),
            (3, 16, 8, False, True, 2),
            (5, 24, 10, True, True, 2),
        )
    ),
)

MOBILENET_V3_LARGE_TABLE = (
    # kernel, channels inside, channels out, squeeze-and-excitation channels
    (3, 16, 16, 0),
    (3, 64, 24, 0),
    (3, 72, 24, 0),
    (5, 72, 40, 24),
    (5, 120, 40, 32),
    (5, 120, 40, 32),
    (3, 240, 80, 0),
    (3, 200, 80, 0),
    (3, 184, 80, 0),
    (3, 184, 80, 0),
    (3, 480, 112, 120),
    (3, 672, 112, 168),
    (5, 672, 160, 168),
    (5, 960, 160, 240),
    (5, 960, 160, 240),
)


def unit(shapes: Shapes, name: str, shape: tuple[int, ...], norm: str) -> None:
    shapes[f"{name}.weight"] = shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{norm}.{part}"] = shape[:1]
    shapes[f"{norm}.num_batches_tracked"] = ()


def heads(channels: int) -> Shapes:
    shapes: Shapes = {}
    for index, size in enumerate((80, 64, 80, 3, 27, 2, 1)):
        shapes[f"final_layers.{index}.weight"] = (size, channels, 1, 1)
        shapes[f"final_layers.{index}.bias"] = (size,)
    return shapes


def resnet50_shapes() -> Shapes:
    """Names and shapes of `net_recon.pth`, spelled out independently of the network's code."""
    shapes = heads(2048)
    unit(shapes, "backbone.conv1", (64, 3, 7, 7), "backbone.bn1")
    before = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        inside = 64 * 2**stage
        for index in range(depth):
            name = f"backbone.layer{stage + 1}.{index}"
            unit(shapes, f"{name}.conv1", (inside, before, 1, 1), f"{name}.bn1")
            unit(shapes, f"{name}.conv2", (inside, inside, 3, 3), f"{name}.bn2")
            unit(shapes, f"{name}.conv3", (4 * inside, inside, 1, 1), f"{name}.bn3")
            if index == 0:
                unit(shapes, f"{name}.downsample.0", (4 * inside, before, 1, 1), f"{name}.downsample.1")
            before = 4 * inside
    return shapes


def mobilenet_shapes() -> Shapes:
    """Names and shapes of `net_recon_mbnet.pth`."""
    shapes = heads(960)
    unit(shapes, "backbone.features.0.0", (16, 3, 3, 3), "backbone.features.0.1")
    before = 16
    for index, (kernel, inside, out, squeeze) in enumerate(MOBILENET_V3_LARGE_TABLE, 1):
        name = f"backbone.features.{index}.conv"
        place = 0
        if inside != before:
            unit(shapes, f"{name}.0", (inside, before, 1, 1), f"{name}.1")
            place = 3
        unit(shapes, f"{name}.{place}", (inside, 1, kernel, kernel), f"{name}.{place + 1}")
        if squeeze:
            for layer, (rows, columns) in ((0, (squeeze, inside)), (2, (inside, squeeze))):
                shapes[f"{name}.5.fc.{layer}.weight"] = (rows, columns)
                shapes[f"{name}.5.fc.{layer}.bias"] = (rows,)
        unit(shapes, f"{name}.{place + 4}", (out, inside, 1, 1), f"{name}.{place + 5}")
        before = out
    unit(shapes, "backbone.conv.0", (960, 160, 1, 1), "backbone.conv.1")
    return shapes


class StraightLine:
    """Both small networks once more, from the papers and the names of their tensors alone."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        get = self.state.__getitem__
        statistics = (get(f"{name}.running_mean"), get(f"{name}.running_var"))
        return functional.batch_norm(x, *statistics, get(f"{name}.weight"), get(f"{name}.bias"))

    def heads(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        weights = torch.cat([self.state[f"final_layers.{i}.weight"][:, :, 0, 0] for i in range(7)])
        return pooled @ weights.T + torch.cat([self.state[f"final_layers.{i}.bias"] for i in range(7)])

    def resnet(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x, "backbone.conv1", 2), "backbone.bn1").relu()
        x = functional.max_pool2d(x, 3, 2, 1)
        for stage, depth in ((1, 1), (2, 2), (3, 1), (4, 1)):
            for index in range(depth):
                name = f"backbone.layer{stage}.{index}"
                stride = 2 if stage > 1 and index == 0 else 1
                y = self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
                y = self.norm(self.conv(y, f"{name}.conv2", stride), f"{name}.bn2").relu()
                y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
                if index == 0:
                    x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                x = (x + y).relu()
        return self.heads(x)

    def mobilenet(self, x: Tensor) -> Tensor:
        def hard_swish(x: Tensor) -> Tensor:
            return x * (x + 3).clamp(0, 6) / 6

        def squeeze(x: Tensor, name: str) -> Tensor:
            first, second = (
                (self.state[f"{name}.fc.{i}.weight"], self.state[f"{name}.fc.{i}.bias"]) for i in (0, 2)
            )
            weights = functional.linear(functional.linear(x.mean((2, 3)), *first).relu(), *second)
            return x * ((weights + 3).clamp(0, 6) / 6)[:, :, None, None]

        net = "backbone.features"
        x = hard_swish(self.norm(self.conv(x, f"{net}.0.0", 2), f"{net}.0.1"))
        x = x + self.norm(
            self.conv(
                self.norm(self.conv(x, f"{net}.1.conv.0"), f"{net}.1.conv.1").relu(), f"{net}.1.conv.4"
            ),
            f"{net}.1.conv.5",
        )
        blocks = (
            (2, torch.relu, False, 2, False),
            (3, torch.relu, True, 1, True),
            (4, hard_swish, False, 2, False),
            (5, hard_swish, True, 2, False),
        )
        for index, activation, squeezes, stride, shortcut in blocks:
            name = f"{net}.{index}.conv"
            y = activation(self.norm(self.conv(x, f"{name}.0"), f"{name}.1"))
            y = self.norm(self.conv(y, f"{name}.3", stride), f"{name}.4")
            y = activation(squeeze(y, f"{name}.5") if squeezes else y)
            y = self.norm(self.conv(y, f"{name}.7"), f"{name}.8")
            x = x + y if shortcut else y
        return self.heads(hard_swish(self.norm(self.conv(x, "backbone.conv.0"), "backbone.conv.1")))


def crops(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("backbone", "shapes", "backbone_parameters", "parameters"),
    [
        # ResNet-50 and MobileNetV3-Large as published, 25,557,032 and 5,483,032, without their classifiers;
        # then 257 outputs of 2048 or 960 inputs and a bias.
        ("resnet50", resnet50_shapes(), 25_557_032 - 2_049_000, 23_508_032 + 257 * 2049),
        ("mobilenet_v3_large", mobilenet_shapes(), 5_483_032 - 2_511_080, 2_971_952 + 257 * 961),
    ],
)
def test_names_and_sizes_are_the_published_ones(
    backbone: BackboneName, shapes: Shapes, backbone_parameters: int, parameters: int
) -> None:
    with torch.device("meta"):
        network = ReconstructionNet(BACKBONES[backbone])
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in network.backbone.parameters()) == backbone_parameters
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_larger_network_has_the_published_file_size() -> None:
    numbers = sum(torch.Size(shape).numel() for shape in resnet50_shapes().values())
    assert 96.3e6 < 4 * numbers < 96.5e6


@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_outputs_equal_the_reference_and_do_not_depend_on_the_batch(kind: str, randomise: Randomise) -> None:
    network = ReconstructionNet(SMALL_RESNET if kind == "resnet" else SMALL_MOBILENET)
    reference = getattr(StraightLine(randomise(network, 3)), kind)
    x = crops(3, 4)
    found, expected = network(x), reference(x)
    assert found.shape == (3, 257)
    assert expected.std(dim=0).max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_squeezed_channels_follow_the_paper() -> None:
    assert [squeezed_channels(n) for n in (72, 120, 480, 672, 960, 8)] == [24, 32, 120, 168, 240, 8]


def test_the_parts_of_a_row() -> None:
    row = torch.arange(257.0)[None]
    parts = split_coefficients(row)
    starts = [
        (part[0, 0].item(), part.shape[1])
        for part in (
            parts.identity_B80,
            parts.expression_B64,
            parts.albedo_B80,
            parts.angles_B3,
            parts.illumination_B27,
            parts.translation_B3,
        )
    ]
    assert starts == [(0, 80), (80, 64), (144, 80), (224, 3), (227, 27), (254, 3)]
    assert torch.equal(parts.join(), row)
    with pytest.raises(ValueError, match=r"\(B, 257\), got \(1, 256\)"):
        split_coefficients(row[:, 1:])


def test_files_are_read_strictly(tmp_path: Path) -> None:
    network = ReconstructionNet(BACKBONES["mobilenet_v3_large"]).eval()
    published = {f"net_recon.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file(published, tmp_path / "net.safetensors")
    loaded = load_reconstruction_net(
        tmp_path / "net.safetensors", "mobilenet_v3_large", lambda key: key.removeprefix("net_recon.")
    )
    x = crops(1, 5)
    torch.testing.assert_close(loaded(x), network(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(WeightMismatch, match=r"missing: backbone\.conv1\.weight"):
        load_reconstruction_net(tmp_path / "net.safetensors", "resnet50")
    with pytest.raises(ValueError, match=r"\(B, 3, 224, 224\), got \(1, 3, 256, 256\)"):
        loaded(torch.rand(1, 3, 256, 256))
