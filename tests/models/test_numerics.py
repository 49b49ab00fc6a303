"""Numerics: half precision, layout and compiling change no result beyond rounding; choices have reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from models.aesthetics.clip_network import ClipAesthetics
from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.faces.bisenet import BiSeNet
from models.faces.deeplab import DeepLabV3Plus
from models.faces.network_sizes import BiSeNetConfig, DeepLabConfig, ResNetConfig
from models.faces.reconstruction.network import ReconstructionNet
from models.identity.eva_clip import EvaClipVision
from models.identity.id_former import IdFormer
from models.identity.network_sizes import EvaClipConfig, IdFormerConfig
from models.numerics import (
    ChosenNumerics,
    CompileUnavailable,
    choose_numerics,
    prepare,
    require_compiler,
)
from models.numerics_config import Numerics, Precision

TOLERANCES: dict[Precision, float] = {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.06}
"""Largest root mean square error, in deviations of the float32 result; a step of bfloat16 is 1/256."""


def pixels(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


BACKBONE = ResNetConfig(block="bottleneck", depths=(1, 1, 1, 1), width=4)
DILATED = BACKBONE.model_copy(update={"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "deep_stem": True})
TOWER = EvaClipConfig(image_size=56, width=32, layers=4, head_dim=8, embedding_dim=12, hidden_after=(1, 3))
ENCODER = IdFormerConfig(
    dim=16, depth=2, heads=2, head_dim=8, id_dim=524, feature_dim=32, scales=2, output_dim=24
)
CLIP = ClipAestheticsConfig(
    image_size=28, width=32, layers=2, heads=4, feed_forward_dim=48, embedding_dim=20, head_dims=(16, 8, 6, 4)
)
PARSER = BiSeNetConfig(backbone=ResNetConfig(block="basic", depths=(1, 1, 1, 1), width=8))

NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "BiSeNet": (lambda: BiSeNet(PARSER), "forward", 64),
    "DeepLabV3+": (
        lambda: DeepLabV3Plus(DeepLabConfig(backbone=DILATED, channels=16, detail_channels=8)),
        "forward",
        64,
    ),
    "3DDFA-V3": (lambda: ReconstructionNet(BACKBONE), "forward", 224),
    "CLIP": (lambda: ClipAesthetics(CLIP), "embed", 28),
    "EVA-CLIP": (lambda: EvaClipVision(TOWER), "forward", 56),
}
"""How each is built, which method of it is called, and the side of the pictures that it takes."""


def flat(result: Any) -> Tensor:
    """All numbers of a result; every one must be float32."""
    if isinstance(result, Tensor):
        assert result.dtype == torch.float32
        return result.flatten()
    return torch.cat([flat(part) for part in result])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_annotation_networks_give_what_float32_gives(name: str) -> None:
    torch.set_num_threads(1)
    build, method, size = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval().requires_grad_(False)
    state = network.state_dict()
    given = pixels(size)
    with torch.inference_mode():
        expected = getattr(network, method)(given)
        deviation = flat(expected).std()
        for precision, tolerance in TOLERANCES.items():
            for channels_last in (False, True):
                other = build().eval().requires_grad_(False)
                other.load_state_dict(state)
                chosen = ChosenNumerics(precision, channels_last, False, ("", "", ""))
                assert prepare(other, chosen, "cpu", method) is other
                found = getattr(other, method)(given)
                assert type(found) is type(expected)
                error = (flat(found) - flat(expected)).pow(2).mean().sqrt() / deviation
                assert error < tolerance, (precision, channels_last)
                if precision != "float32":
                    assert error > 0  # it was really computed in fewer bits
                assert all(value.dtype != torch.bfloat16 for value in other.state_dict().values())


def test_the_id_encoder_takes_what_the_tower_gives() -> None:
    torch.manual_seed(0)
    half = ChosenNumerics("bfloat16", False, False, ("", "", ""))
    encoder, tower = IdFormer(ENCODER).eval(), EvaClipVision(TOWER).eval()
    with torch.inference_mode():
        hidden, identity = tower(pixels(56)).hidden, torch.randn(2, 524)
        expected = encoder(identity, hidden)
        found = prepare(encoder, half, "cpu")(identity, prepare(tower, half, "cpu")(pixels(56)).hidden)
    assert found.dtype == torch.float32
    assert (found - expected).pow(2).mean().sqrt() < 0.06 * expected.std()


def test_channels_last_reaches_weights_and_pictures() -> None:
    seen = []

    class Network(nn.Conv2d):
        def forward(self, x_BCHW: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # one picture batch
            seen.append(x_BCHW.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x_BCHW)

    for on in (True, False):
        network = prepare(Network(3, 8, 3), ChosenNumerics("float32", on, False, ("", "", "")), "cpu")
        network(pixels(8))
        assert network.weight.is_contiguous(memory_format=torch.channels_last) is on
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("asked", "device", "preferred", "exact", "precision", "channels_last", "why"),
    [
        (Numerics(), "cpu", "float32", "", "float32", False, "no faster format"),
        (Numerics(), "cuda:1", "bfloat16", "", "bfloat16", True, "cuda:1 has it in hardware"),
        (Numerics(), "xpu:0", "bfloat16", "pixels", "float32", False, "auto: pixels"),
        (Numerics(), "mps", "float32", "", "float32", False, "no faster format"),
        (Numerics(precision="float16"), "mps", "float32", "pixels", "float16", True, "asked for"),
        (Numerics(precision="bfloat16"), "cpu", "float32", "", "bfloat16", False, "asked for"),
        (Numerics(channels_last="on"), "cpu", "float32", "", "float32", True, "no faster"),
        (Numerics(precision="bfloat16", channels_last="off"), "cuda", "bfloat16", "", "bfloat16", False, ""),
    ],
)
def test_every_choice_has_a_reason(
    asked: Numerics,
    device: str,
    preferred: Precision,
    exact: str,
    precision: Precision,
    channels_last: bool,
    why: str,
) -> None:
    chosen = choose_numerics(asked, device, preferred, exact)
    assert (chosen.precision, chosen.channels_last, chosen.compile) == (precision, channels_last, False)
    assert why in chosen.reasons[0]
    assert all(reason.endswith(")") for reason in chosen.reasons)


def test_compiling_works_or_fails_aloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled = ChosenNumerics("float32", False, True, ("", "", ""))
    given = torch.randn(3, 8)
    network = nn.Linear(8, 4)
    expected = network(given).detach()
    require_compiler.cache_clear()
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(CompileUnavailable) as refused:
        prepare(network, compiled, "cpu")
    assert "compiling was asked for, and torch cannot compile for cpu" in str(refused.value)
    assert "apt-get install g++" in str(refused.value)
    torch.compiler.reset()
    prepare(network, compiled, "cpu")
    before = counters["stats"]["unique_graphs"]
    with torch.inference_mode():
        torch.testing.assert_close(network(given), expected, atol=1e-6, rtol=0)
    assert counters["stats"]["unique_graphs"] == before + 1
