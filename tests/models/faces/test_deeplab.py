"""DeepLabV3+: MMSegmentation's names, agreement with a straight-line reference, and visible-face masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor

from models.faces.deeplab import (
    DeepLabV3Plus,
    VisibleFace,
    load_deeplab,
    mmseg_key,
    network_size,
)
from models.faces.network_sizes import DeepLabConfig, ResNetConfig
from models.faces.parsing import visible_face_mask
from models.weight_files import WeightMismatch, load_weights

SMALL = DeepLabConfig(
    backbone=ResNetConfig(
        block="bottleneck",
        depths=(2, 1, 2, 3),
        width=6,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        deep_stem=True,
    ),
    channels=10,
    detail_channels=5,
    dilations=(2, 3, 5),
)


def mmseg_shapes(
    depths: tuple[int, ...] = (3, 4, 23, 3), width: int = 64, channels: int = 512, detail: int = 48
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an MMSegmentation checkpoint, spelled out independently of the network's code."""
    shapes: dict[str, tuple[int, ...]] = {}

    def unit(name: str, shape: tuple[int, ...], norm: str) -> None:
        shapes[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    def module(name: str, channels_in: int, channels_out: int, kernel: int) -> None:
        unit(f"{name}.conv", (channels_out, channels_in, kernel, kernel), f"{name}.bn")

    def separable(name: str, channels_in: int, channels_out: int) -> None:
        module(f"{name}.depthwise_conv", 1, channels_in, 3)
        module(f"{name}.pointwise_conv", channels_in, channels_out, 1)

    half = width // 2
    for place, shape in (
        (0, (half, 3, 3, 3)),
        (3, (half, half, 3, 3)),
        (6, (width, half, 3, 3)),
    ):
        unit(f"backbone.stem.{place}", shape, f"backbone.stem.{place + 1}")
    before = width
    for stage, depth in enumerate(depths):
        inside = width * 2**stage
        for index in range(depth):
            name = f"backbone.layer{stage + 1}.{index}"
            unit(f"{name}.conv1", (inside, before, 1, 1), f"{name}.bn1")
            unit(f"{name}.conv2", (inside, inside, 3, 3), f"{name}.bn2")
            unit(f"{name}.conv3", (4 * inside, inside, 1, 1), f"{name}.bn3")
            if index == 0:
                unit(f"{name}.downsample.0", (4 * inside, before, 1, 1), f"{name}.downsample.1")
            before = 4 * inside
    head = "decode_head"
    module(f"{head}.image_pool.1", before, channels, 1)
    module(f"{head}.aspp_modules.0", before, channels, 1)
    for index in (1, 2, 3):
        separable(f"{head}.aspp_modules.{index}", before, channels)
    module(f"{head}.bottleneck", 5 * channels, channels, 3)
    module(f"{head}.c1_bottleneck", 4 * width, detail, 1)
    separable(f"{head}.sep_bottleneck.0", channels + detail, channels)
    separable(f"{head}.sep_bottleneck.1", channels, channels)
    shapes[f"{head}.conv_seg.weight"], shapes[f"{head}.conv_seg.bias"] = (2, channels, 1, 1), (2,)
    module("auxiliary_head.convs.0", before // 2, channels // 2, 3)
    shapes["auxiliary_head.conv_seg.weight"] = (2, channels // 2, 1, 1)
    shapes["auxiliary_head.conv_seg.bias"] = (2,)
    return shapes


def straight_line(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The small network once more, from MMSegmentation's description and the names in its checkpoint."""

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = dilation * (weight.shape[2] // 2)
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(x, weight, None, stride, padding, dilation, groups)

    def norm(x: Tensor, name: str) -> Tensor:
        statistics = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return functional.batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"])

    def module(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        return norm(conv(x, f"{name}.conv", 1, dilation), f"{name}.bn").relu()

    def separable(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        return module(module(x, f"{name}.depthwise_conv", dilation), f"{name}.pointwise_conv")

    for place, stride in ((0, 2), (3, 1), (6, 1)):
        x = norm(conv(x, f"backbone.stem.{place}", stride), f"backbone.stem.{place + 1}").relu()
    x = functional.max_pool2d(x, 3, 2, 1)
    # Stride of each stage's first block, then the dilation of every block's 3x3 convolution.
    stages = ((1, (1, 1)), (2, (1,)), (1, (1, 2)), (1, (2, 4, 4)))
    maps = []
    for stage, (first_stride, dilations) in enumerate(stages, 1):
        for index, dilation in enumerate(dilations):
            name, stride = f"backbone.layer{stage}.{index}", first_stride if index == 0 else 1
            y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2", stride, dilation), f"{name}.bn2").relu()
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if index == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
        maps.append(x)
    first, _, _, last = maps
    head = "decode_head"
    image = module(functional.adaptive_avg_pool2d(last, 1), f"{head}.image_pool.1")
    branches = [functional.interpolate(image, last.shape[2:], mode="bilinear")]
    branches.append(module(last, f"{head}.aspp_modules.0"))
    branches += [separable(last, f"{head}.aspp_modules.{i}", d) for i, d in ((1, 2), (2, 3), (3, 5))]
    joined = module(torch.cat(branches, 1), f"{head}.bottleneck")
    joined = functional.interpolate(joined, first.shape[2:], mode="bilinear", align_corners=False)
    joined = torch.cat([joined, module(first, f"{head}.c1_bottleneck")], 1)
    joined = separable(separable(joined, f"{head}.sep_bottleneck.0"), f"{head}.sep_bottleneck.1")
    return conv(joined, f"{head}.conv_seg") + state[f"{head}.conv_seg.bias"][:, None, None]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A small checkpoint under MMSegmentation's names, the training head included."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in mmseg_shapes((2, 1, 2, 3), 6, 10, 5).items():
        noise = torch.randn(shape, generator=generator)
        if noise.ndim > 1:
            state[name] = noise * (1.6 / noise[0].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            state[name] = 1 + 0.4 * torch.tanh(noise)
        else:
            state[name] = 0.2 * noise
    return state


@pytest.fixture(scope="module")
def small(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> DeepLabV3Plus:
    path = tmp_path_factory.mktemp("deeplab") / "small.safetensors"
    save_file(published, path)
    network = DeepLabV3Plus(SMALL)
    load_weights(network, path, mmseg_key)
    return network


def test_every_published_tensor_has_its_place() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus()
    published = mmseg_shapes()
    assert published["backbone.layer3.22.conv2.weight"] == (256, 256, 3, 3)
    assert published["decode_head.bottleneck.conv.weight"] == (512, 2560, 3, 3)
    assert published["decode_head.sep_bottleneck.0.depthwise_conv.conv.weight"] == (560, 1, 3, 3)
    adapted = {name: shape for key, shape in published.items() if (name := mmseg_key(key)) is not None}
    left = [key for key in published if mmseg_key(key) is None]
    assert len(left) == 8
    assert all(key.startswith("auxiliary_head.") for key in left)
    assert len(adapted) + len(left) == len(published)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == adapted
    # ResNet-101 as published without its classifier is 44,549,160 - 2,049,000; variant C has 28,768 numbers
    # in its stem where the plain one has 9,408 + 128.
    encoder = sum(parameter.numel() for parameter in network.encoder.parameters())
    assert encoder == 42_500_160 - 9_536 + 28_768
    assert sum(parameter.numel() for parameter in network.parameters()) == 60_208_594
    assert mmseg_key("neck.conv.weight") == "neck.conv.weight"


def test_outputs_equal_the_reference(small: DeepLabV3Plus, published: dict[str, Tensor]) -> None:
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    expected = straight_line(published, x)
    assert expected.shape == (2, 2, 24, 16)
    assert expected.std() > 0.1
    torch.testing.assert_close(small(x), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_gives_what_its_images_give_alone(small: DeepLabV3Plus) -> None:
    x = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    alone = torch.cat([small(row[None]) for row in x])
    torch.testing.assert_close(small(x), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((512, 512), (512, 512)),
        ((1024, 768), (512, 384)),
        ((600, 512), (512, 448)),
        ((90, 100), (480, 512)),
        ((3000, 20), (512, 32)),
    ],
)
def test_network_sizes(photo: tuple[int, int], expected: tuple[int, int]) -> None:
    assert network_size(*photo) == expected


def test_masks_are_those_of_the_reference(
    small: DeepLabV3Plus, published: dict[str, Tensor], photos: dict[str, np.ndarray]
) -> None:
    images = [photos["astronaut"], photos["hopper"], photos["astronaut"][::-1]]
    found = VisibleFace(small).masks(images)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for image, mask in ((images[0], found[0]), (images[2], found[2])):
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        logits = straight_line(published, (pixels - mean) / std)
        logits = functional.interpolate(logits, (512, 512), mode="bilinear", align_corners=False)[0]
        margin = (logits[1] - logits[0]).numpy()
        clear = np.abs(margin) > 1e-4
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(mask[clear], margin[clear] > 0)
        assert 0.02 < mask.mean() < 0.98
    assert (found[1].shape, found[1].dtype) == ((600, 512), np.bool_)
    alone = VisibleFace(small).masks([images[1]])[0]
    assert (alone == found[1]).mean() > 0.9999
    parsing = np.ones((512, 512), np.uint8)
    np.testing.assert_array_equal(visible_face_mask(parsing, found[0]), found[0])


def test_files_of_other_networks_are_refused(
    published: dict[str, Tensor], small: DeepLabV3Plus, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(published, path)
    with pytest.raises(WeightMismatch, match=r"of another shape: encoder\.stem\.0\.weight is \(3, 3, 3, 3\)"):
        load_deeplab(path)
    save_file({name: tensor.contiguous() for name, tensor in small.state_dict().items()}, path)
    again = DeepLabV3Plus(SMALL)
    load_weights(again, path)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(again(x), small(x), rtol=1e-5, atol=1e-5)
