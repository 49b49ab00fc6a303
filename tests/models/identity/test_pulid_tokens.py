"""From photographs to identity tokens: masking, the picture EVA-CLIP is shown, and the whole path."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from models.faces.constants import CLASS_NAMES
from models.identity.eva_clip import EvaClipVision
from models.identity.id_former import IdFormer
from models.identity.network_sizes import EvaClipConfig, IdFormerConfig
from models.identity.pulid_tokens import PulidTokens, eva_picture, mask_source

TOWER = EvaClipConfig(image_size=56, width=32, layers=4, head_dim=8, embedding_dim=12, hidden_after=(1, 3))
ENCODER = IdFormerConfig(
    dim=24,
    depth=2,
    heads=3,
    head_dim=8,
    queries=5,
    id_tokens=2,
    id_dim=524,
    feature_dim=32,
    scales=2,
    output_dim=10,
)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@pytest.fixture(scope="module")
def pulid() -> PulidTokens:
    torch.manual_seed(0)
    networks = EvaClipVision(TOWER).eval(), IdFormer(ENCODER).eval()
    for network in networks:
        for parameter in network.requires_grad_(False).parameters():
            parameter.normal_(std=0.3)
    return PulidTokens(*networks)


@pytest.fixture(scope="module")
def inputs(photos: dict[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Three embeddings, crops of the two photographs and a mirrored one, and parsings with every class."""
    random = np.random.default_rng(0)
    crops = [photos["astronaut"], photos["hopper"][:512], photos["astronaut"][:, ::-1]]
    rows = np.arange(512)[:, None] // 27 + np.zeros((512, 512), int)
    parsings = [np.roll(rows, shift, axis=0).astype(np.uint8) for shift in (0, 100, 300)]
    assert set(np.unique(parsings[0])) == set(range(19))
    return random.normal(size=(3, 512)).astype(np.float32), [np.ascontiguousarray(c) for c in crops], parsings


def test_eva_is_shown_the_face_in_grey_on_white() -> None:
    random = np.random.default_rng(1)
    crop = random.random((3, 1, 19)).astype(np.float32)
    codes = np.arange(19)[None]
    shown = eva_picture(torch.from_numpy(crop)[None], torch.from_numpy(codes)[None])[0].numpy()
    for code in range(19):
        grey = 0.299 * crop[0, 0, code] + 0.587 * crop[1, 0, code] + 0.114 * crop[2, 0, code]
        expected = 1.0 if code in (0, 16, 18, 7, 8, 9, 14, 15) else grey
        np.testing.assert_allclose(shown[:, 0, code], expected, atol=1e-6)


def test_masked_source_keeps_the_face_alone() -> None:
    image = np.full((1, 19, 3), 200, np.uint8)
    masked = mask_source(image, np.arange(19, dtype=np.uint8)[None])
    kept = {CLASS_NAMES[code] for code in range(19) if masked[0, code].tolist() == [200] * 3}
    assert kept == {
        "skin", "right_brow", "left_brow", "right_eye", "left_eye", "right_ear", "left_ear",
        "nose", "mouth", "upper_lip", "lower_lip",
    }  # fmt: skip
    assert (masked[0, [0, 6, 9, 14, 15, 16, 17, 18]] == 0).all()
    with pytest.raises(ValueError, match="does not fit"):
        mask_source(image, np.zeros((2, 19), np.uint8))


def test_tokens_equal_the_steps_by_hand_and_batch_equals_single(
    pulid: PulidTokens, inputs: tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]
) -> None:
    embeddings, crops, parsings = inputs
    tokens = pulid.encode(embeddings, crops, parsings)
    assert tokens.shape == (3, 5, 10)
    assert tokens.dtype == np.float32
    for row in range(3):
        alone = pulid.encode(embeddings[row : row + 1], crops[row : row + 1], parsings[row : row + 1])[0]
        assert np.abs(tokens[row] - alone).max() / np.abs(alone).max() < 1e-5
        grey = (crops[row].astype(np.float32) / 255) @ np.array([0.299, 0.587, 0.114], np.float32)
        grey[np.isin(parsings[row], (0, 7, 8, 9, 14, 15, 16, 18))] = 1
        picture = torch.from_numpy(grey)[None, None].expand(1, 3, 512, 512)
        picture = functional.interpolate(picture, (56, 56), mode="bicubic", antialias=True)
        features = pulid.tower((picture - MEAN) / STD)
        vector = features.embedding_BE[0] / features.embedding_BE[0].square().sum().sqrt()
        identity = torch.cat([torch.from_numpy(embeddings[row]), vector])[None]
        expected = pulid.encoder(identity, features.hidden)[0].numpy()
        assert np.abs(tokens[row] - expected).max() / np.abs(expected).max() < 1e-4
    assert np.abs(tokens[0] - tokens[2]).max() > 0.01


def test_unconditional_tokens_are_the_encoder_at_zero(pulid: PulidTokens) -> None:
    expected = pulid.encoder(torch.zeros(1, 524), [torch.zeros(1, 17, 32)] * 2)[0].numpy()
    unconditional = pulid.unconditional()
    np.testing.assert_allclose(unconditional, expected, atol=1e-5)
    assert np.abs(unconditional).max() > 0.1


def test_refusals(pulid: PulidTokens, inputs: tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]) -> None:
    embeddings, crops, parsings = inputs
    with pytest.raises(ValueError, match="512 numbers and one parsing for each of 3 crops"):
        pulid.encode(embeddings[:2], crops, parsings)
    with pytest.raises(ValueError, match="row 1: crop"):
        pulid.encode(embeddings, [crops[0], crops[1][:200], crops[2]], parsings)
    broken = embeddings.copy()
    broken[2, 7] = np.nan
    with pytest.raises(ValueError, match=r"rows \[2\]"):
        pulid.encode(broken, crops, parsings)
    with pytest.raises(ValueError, match="2 hidden states of 32 channels"):
        PulidTokens(pulid.tower, IdFormer(ENCODER.model_copy(update={"feature_dim": 16})))
    assert pulid.encode(embeddings[:0], [], []).shape == (0, 5, 10)


def test_the_published_sizes_fit_together() -> None:
    with torch.device("meta"):
        pulid = PulidTokens(EvaClipVision(), IdFormer())
    assert pulid.embedding_size == 512
