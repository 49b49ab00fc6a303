"""BiSeNet: published names and sizes, agreement with a straight-line reference, and stored codes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn

from models.faces.bisenet import BiSeNet, FaceParser, load_bisenet, parser_input
from models.faces.network_sizes import BiSeNetConfig, ResNetConfig
from models.faces.parsing import decode_codes, encode_codes
from models.weight_files import WeightMismatch

SMALL = BiSeNetConfig(backbone=ResNetConfig(block="basic", depths=(2, 1, 2, 1), width=8))

Randomise = Callable[[nn.Module, int], dict[str, Tensor]]


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published parser, spelled out independently of the network's code."""
    shapes: dict[str, tuple[int, ...]] = {}

    def unit(name: str, shape: tuple[int, ...], norm: str) -> None:
        shapes[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    def block(name: str, channels_in: int, channels_out: int, kernel: int) -> None:
        unit(f"{name}.conv", (channels_out, channels_in, kernel, kernel), f"{name}.bn")

    net = "cp.resnet"
    unit(f"{net}.conv1", (64, 3, 7, 7), f"{net}.bn1")
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for index in range(2):
            name = f"{net}.layer{stage}.{index}"
            unit(f"{name}.conv1", (width, before, 3, 3), f"{name}.bn1")
            unit(f"{name}.conv2", (width, width, 3, 3), f"{name}.bn2")
            if before != width:
                unit(f"{name}.downsample.0", (width, before, 1, 1), f"{name}.downsample.1")
            before = width
    for name, channels in (("arm16", 256), ("arm32", 512)):
        block(f"cp.{name}.conv", channels, 128, 3)
        unit(f"cp.{name}.conv_atten", (128, 128, 1, 1), f"cp.{name}.bn_atten")
    block("cp.conv_head32", 128, 128, 3)
    block("cp.conv_head16", 128, 128, 3)
    block("cp.conv_avg", 512, 128, 1)
    block("ffm.convblk", 256, 256, 1)
    shapes["ffm.conv1.weight"], shapes["ffm.conv2.weight"] = (64, 256, 1, 1), (256, 64, 1, 1)
    for name, channels, inside in (
        ("conv_out", 256, 256),
        ("conv_out16", 128, 64),
        ("conv_out32", 128, 64),
    ):
        block(f"{name}.conv", channels, inside, 3)
        shapes[f"{name}.conv_out.weight"] = (19, inside, 1, 1)
    return shapes


def straight_line(state: dict[str, Tensor], x: Tensor, depths: tuple[int, ...]) -> Tensor:
    """The network once more, from the paper and the names of its tensors alone."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=(weight.shape[2] - 1) // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        statistics = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return functional.batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"])

    def unit(x: Tensor, name: str) -> Tensor:
        return norm(conv(x, f"{name}.conv"), f"{name}.bn").relu()

    def pool(x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x, 1)

    def refine(x: Tensor, name: str) -> Tensor:
        x = unit(x, f"{name}.conv")
        return x * norm(conv(pool(x), f"{name}.conv_atten"), f"{name}.bn_atten").sigmoid()

    height, width = x.shape[2:]
    net = "cp.resnet"
    x = functional.max_pool2d(norm(conv(x, f"{net}.conv1", 2), f"{net}.bn1").relu(), 3, 2, 1)
    maps = []
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            name = f"{net}.layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
            if stride == 2:
                x = norm(conv(x, f"{name}.downsample.0", 2), f"{name}.downsample.1")
            x = (x + y).relu()
        maps.append(x)
    _, eighth, sixteenth, thirty_second = maps
    low = refine(thirty_second, "cp.arm32") + unit(pool(thirty_second), "cp.conv_avg")
    low = unit(low.repeat_interleave(2, 2).repeat_interleave(2, 3), "cp.conv_head32")
    middle = refine(sixteenth, "cp.arm16") + low
    middle = unit(middle.repeat_interleave(2, 2).repeat_interleave(2, 3), "cp.conv_head16")
    fused = unit(torch.cat([eighth, middle], 1), "ffm.convblk")
    weights = conv(conv(pool(fused), "ffm.conv1").relu(), "ffm.conv2").sigmoid()
    out = conv(unit(fused * weights + fused, "conv_out.conv"), "conv_out.conv_out")
    return functional.interpolate(out, (height, width), mode="bilinear", align_corners=True)


@pytest.fixture(scope="module")
def small(randomise: Randomise) -> tuple[BiSeNet, dict[str, Tensor]]:
    network = BiSeNet(SMALL)
    return network, randomise(network, 1)


def test_names_and_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = BiSeNet()
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == published_shapes()
    # ResNet-18 as published without its classifier: 11,689,512 - 513,000.
    assert sum(parameter.numel() for parameter in network.cp.resnet.parameters()) == 11_176_512
    assert sum(parameter.numel() for parameter in network.parameters()) == 13_300_416
    # The published file has 53.3 MB; what is not numbers in it is the zip's table of contents.
    numbers = 4 * sum(tensor.numel() for tensor in network.state_dict().values())
    assert 53.2e6 < numbers < 53.3e6


def test_outputs_equal_the_reference(small: tuple[BiSeNet, dict[str, Tensor]]) -> None:
    network, state = small
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    expected = straight_line(state, x, (2, 1, 2, 1))
    assert expected.shape == (2, 19, 96, 64)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_gives_what_its_images_give_alone(small: tuple[BiSeNet, dict[str, Tensor]]) -> None:
    network, _ = small
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_image(small: tuple[BiSeNet, dict[str, Tensor]]) -> None:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    small[0](parser_input(x, double_normalisation=True)).abs().mean().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(dim=1) > 0).float().mean() > 0.95


def test_both_normalisations() -> None:
    colour = torch.tensor([0.2, 0.5, 0.9])
    once = (colour - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    x = colour[None, :, None, None].expand(1, 3, 4, 4)
    for double, expected in ((False, once), (True, 2 * once - 1)):
        found = parser_input(x, double_normalisation=double)
        torch.testing.assert_close(found, expected[None, :, None, None].expand(1, 3, 4, 4))


def test_photographs_become_codes_of_their_own_size(small, photos: dict[str, np.ndarray]) -> None:
    """Against the reference run step by step; the switch of the normalisation changes the codes."""
    network, state = small
    images = [photos["astronaut"], photos["hopper"][:384, :256], photos["astronaut"][::4, ::4]]
    parser = FaceParser(network, double_normalisation=True)
    found = parser.parse(images)
    assert [codes.shape for codes in found] == [image.shape[:2] for image in images]
    assert {codes.dtype for codes in found} == {np.dtype(np.uint8)}
    pixels = torch.from_numpy(images[0]).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    logits = straight_line(state, ((pixels - mean) / std - 0.5) / 0.5, (2, 1, 2, 1))
    top = logits.topk(2, dim=1).values[0]
    clear = ((top[0] - top[1]) > 1e-4).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[0][clear], logits.argmax(1)[0].numpy()[clear])
    assert len(np.unique(found[0])) > 2
    once = FaceParser(network, double_normalisation=False).parse(images[:1])[0]
    assert (once != found[0]).mean() > 0.02
    for codes, alone in zip(found[1:], (parser.parse([image])[0] for image in images[1:]), strict=True):
        assert (codes == alone).mean() > 0.9999
        np.testing.assert_array_equal(decode_codes(encode_codes(codes), codes.shape), codes)


def test_files_are_read_strictly(randomise: Randomise, tmp_path: Path) -> None:
    network = BiSeNet()
    state = randomise(network, 5)
    save_file(state, tmp_path / "parser.safetensors")
    loaded = load_bisenet(tmp_path / "parser.safetensors")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(loaded(x), straight_line(state, x, (2, 2, 2, 2)), rtol=1e-4, atol=1e-4)
    del state["ffm.conv1.weight"]
    save_file(state, tmp_path / "parser.safetensors")
    with pytest.raises(WeightMismatch, match=r"BiSeNet; tensors 1 missing: ffm\.conv1\.weight"):
        load_bisenet(tmp_path / "parser.safetensors")


def test_a_parser_needs_the_nineteen_classes() -> None:
    with pytest.raises(ValueError, match="19 classes apart, this one 11"):
        FaceParser(BiSeNet(SMALL.model_copy(update={"classes": 11})), double_normalisation=False)
    with pytest.raises(ValueError, match="no image"):
        FaceParser(BiSeNet(SMALL), double_normalisation=False).parse([])
