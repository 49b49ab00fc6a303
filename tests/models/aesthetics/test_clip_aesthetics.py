"""CLIP and the aesthetic head: published names and sizes, the folded head, scores of real photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from models.aesthetics import face_quality
from models.aesthetics.clip_aesthetics import SCORER_NAME, AestheticScorer
from models.aesthetics.clip_network import (
    AestheticHead,
    ClipAesthetics,
    fold,
    load_clip_aesthetics,
)
from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.clip_inputs import clip_input
from models.weight_files import WeightMismatch

SMALL = ClipAestheticsConfig(
    image_size=28, width=32, layers=3, heads=4, feed_forward_dim=48, embedding_dim=20, head_dims=(16, 8, 6, 4)
)

HEAD_SHAPES = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
HEAD_FILE_BYTES, SINGLE_FILE_GIGABYTES = 3_714_759, 1.22


def random_network(seed: int) -> ClipAesthetics:
    torch.manual_seed(seed)
    network = ClipAesthetics(SMALL).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.3)
    return network


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aesthetics") / "model.safetensors"
    save_file(random_network(0).state_dict(), path)
    return path


def straight_line(state: dict[str, Tensor], picture: Tensor) -> Tensor:
    """The score of one prepared picture (3, 28, 28): four patches, four heads of 8, five matrices."""

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return centred * scale * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    tower = "clip.vision_model."
    kernel = state[f"{tower}embeddings.patch_embedding.weight"].reshape(32, -1)
    patches = picture.unfold(1, 14, 14).unfold(2, 14, 14).permute(1, 2, 0, 3, 4).reshape(4, -1) @ kernel.T
    x = torch.cat([state[f"{tower}embeddings.class_embedding"][None], patches])
    x = norm(x + state[f"{tower}embeddings.position_embedding.weight"], f"{tower}pre_layrnorm")
    for layer in range(3):
        own = f"{tower}encoder.layers.{layer}."
        y = norm(x, f"{own}layer_norm1")
        query, key, value = (linear(y, f"{own}self_attn.{name}_proj") for name in "qkv")
        heads = [
            torch.softmax(query[:, part] @ key[:, part].T / 8**0.5, dim=-1) @ value[:, part]
            for part in (slice(start, start + 8) for start in range(0, 32, 8))
        ]
        x = x + linear(torch.cat(heads, dim=1), f"{own}self_attn.out_proj")
        inner = linear(norm(x, f"{own}layer_norm2"), f"{own}mlp.fc1")
        x = x + linear(inner * torch.sigmoid(1.702 * inner), f"{own}mlp.fc2")
    embedding = norm(x[0], f"{tower}post_layernorm") @ state["clip.visual_projection.weight"].T
    score = embedding / embedding.square().sum().sqrt()
    for layer in (0, 2, 4, 6, 7):
        score = linear(score, f"mlp.layers.{layer}")
    return score[0]


def test_full_size_has_the_published_tensors() -> None:
    with torch.device("meta"):
        network = ClipAesthetics()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    head = {name: shape for name, shape in shapes.items() if name.startswith("mlp.")}
    expected = {f"mlp.layers.{layer}.weight": shape for layer, shape in HEAD_SHAPES.items()}
    expected |= {f"mlp.layers.{layer}.bias": shape[:1] for layer, shape in HEAD_SHAPES.items()}
    assert head == expected
    head_count = sum(tensor.numel() for tensor in network.mlp.state_dict().values())
    assert head_count == 927_969
    assert 0 < HEAD_FILE_BYTES - 4 * head_count < 5_000
    assert shapes["clip.vision_model.encoder.layers.0.self_attn.q_proj.weight"] == (1024, 1024)
    assert shapes["clip.visual_projection.weight"] == (768, 1024)
    assert shapes["clip.vision_model.embeddings.position_embedding.weight"] == (257, 1024)
    assert len(shapes) == 392 + 10
    # Tokens, patches and norms; 24 blocks of 12 width² + 13 width; the projection.
    width = 1024
    tower = width * (1 + 3 * 14 * 14 + 257 + 4) + 24 * (12 * width**2 + 13 * width) + 768 * width
    assert sum(parameter.numel() for parameter in network.clip.parameters()) == tower
    assert 4 * (tower + head_count) / 1e9 == pytest.approx(SINGLE_FILE_GIGABYTES, abs=0.005)


def test_network_equals_the_straight_line_and_batch_equals_single() -> None:
    network = random_network(1)
    pictures = torch.randn(4, 3, 28, 28)
    scores = network(pictures)
    folded = fold(network.mlp)(network.embed(pictures))
    for row in range(4):
        expected = straight_line(network.state_dict(), pictures[row])
        assert scores[row].item() == pytest.approx(expected.item(), abs=1e-5)
        assert folded[row].item() == pytest.approx(expected.item(), abs=1e-5)
        assert scores[row].item() == pytest.approx(network(pictures[row : row + 1]).item(), abs=1e-5)
    assert scores.std() > 1e-3


def test_full_size_head_folds_into_769_numbers() -> None:
    torch.manual_seed(2)
    head = AestheticHead().eval().requires_grad_(False)
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    # Scores as published: about 5, moving by tenths.
    linears[-1].bias.fill_(5.3)
    for linear in linears[:-1]:
        linear.weight.mul_(3)
    embedding_BE = nn.functional.normalize(torch.randn(500, 768), dim=1)
    folded = fold(head)
    assert folded.weight_E.numel() + folded.bias.numel() == 769
    scores = head(embedding_BE)
    assert scores.std() > 0.01
    assert (folded(embedding_BE) - scores).abs().max() < 1e-5
    by_matrices = embedding_BE.double()
    for linear in linears:
        by_matrices = by_matrices @ linear.weight.double().T + linear.bias.double()
    assert (folded(embedding_BE) - by_matrices[:, 0]).abs().max() < 1e-5
    head.train()
    assert (folded(embedding_BE) - head(embedding_BE)).abs().max() > 1e-3  # dropout is why it must be idle


@pytest.mark.parametrize("size", [(512, 512), (300, 451), (600, 512), (200, 150), (224, 224)])
def test_pictures_are_prepared_as_transformers_prepares_them(
    astronaut: np.ndarray, size: tuple[int, int]
) -> None:
    height, width = size
    image = np.asarray(Image.fromarray(astronaut).resize((width, height), Image.Resampling.BOX))
    expected = CLIPImageProcessorPil()(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    ours = clip_input(pixels, 224)[0].numpy()
    assert ours.shape == (3, 224, 224)
    # The library rounds to whole grey levels and clips the overshoot: one level is 0.015.
    assert np.abs(ours - expected).mean() < 0.005
    assert np.quantile(np.abs(ours - expected), 0.99) < 0.02


def test_scores_of_photographs(single_file: Path, astronaut: np.ndarray) -> None:
    scorer = AestheticScorer(single_file, config=SMALL)
    assert scorer.name == SCORER_NAME == "clip_l14_aesthetic" != face_quality.SCORER_NAME
    images = [astronaut, astronaut[:300, 100:], astronaut[::-1], astronaut[:40, :20]]
    images = images * 5  # more than one batch
    scores = scorer.score(images)
    assert scores.dtype == np.float32
    network = random_network(0)
    for index, image in enumerate(images[:4]):
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        assert scores[index] == pytest.approx(network(clip_input(pixels, 28)).item(), abs=1e-5)
        assert scores[index] == pytest.approx(scorer.score([image])[0], abs=1e-5)
        assert scores[index + 16] == pytest.approx(scores[index], abs=1e-5)
    assert len(np.unique(scores[:4].round(4))) == 4
    assert scorer.score([]).shape == (0,)
    with pytest.raises(ValueError, match="uint8 RGB"):
        scorer.score([astronaut[..., 0]])


def test_two_published_files_equal_the_single_one(single_file: Path, tmp_path: Path) -> None:
    network = random_network(0)
    clip = dict(network.clip.state_dict())
    clip["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    clip["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    clip["text_model.final_layer_norm.weight"] = torch.ones(8)
    clip["text_projection.weight"] = torch.ones(20, 8)
    clip["logit_scale"] = torch.tensor(4.6)
    save_file(clip, tmp_path / "clip.safetensors")
    save_file(network.mlp.state_dict(), tmp_path / "head.safetensors")
    pictures = torch.randn(2, 3, 28, 28)
    two = load_clip_aesthetics(tmp_path / "clip.safetensors", tmp_path / "head.safetensors", SMALL)
    one = load_clip_aesthetics(single_file, config=SMALL)
    torch.testing.assert_close(two(pictures), one(pictures), rtol=0, atol=0)
    torch.testing.assert_close(two(pictures), network(pictures))
    assert not two.training
    assert not any(parameter.requires_grad for parameter in two.parameters())


def test_other_files_are_refused(single_file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load_clip_aesthetics(tmp_path / "absent.safetensors", config=SMALL)
    with pytest.raises(WeightMismatch, match="visual_projection"):
        load_clip_aesthetics(single_file, config=SMALL.model_copy(update={"embedding_dim": 24}))
    # The variant with activations has the same sizes under other numbers; it cannot be folded.
    head = random_network(0).mlp.state_dict()
    moved = {"0": "0", "2": "3", "4": "6", "6": "9", "7": "11"}
    relu = {f"layers.{moved[name.split('.')[1]]}.{name.split('.')[2]}": head[name] for name in head}
    save_file(relu, tmp_path / "relu.safetensors")
    clip = tmp_path / "clip.safetensors"
    save_file(random_network(0).clip.state_dict(), clip)
    with pytest.raises(WeightMismatch, match=r"layers\.2\.weight"):
        load_clip_aesthetics(clip, tmp_path / "relu.safetensors", SMALL)
