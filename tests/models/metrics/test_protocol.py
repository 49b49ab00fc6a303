"""The protocol: dlib judges real pictures, attributes by hand, absences say why, the list is pinned."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.aesthetics.clip_network import ClipAesthetics
from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.clip_inputs import clip_input
from models.metrics import ffhq_pairs
from models.metrics.frechet import frechet_distance, statistics_of
from models.metrics.protocol import FaceReading, ProtocolPairs, SwapOutputs, WeightFile, protocol_scores
from models.metrics.protocol_metrics import attribute_metrics, identity_metrics, lpips_metric
from models.metrics.protocol_sets import clip_features, feature_statistics, fid_inception, frechet_metric
from resources.photos.pairs import read_swap_pairs
from resources.weights.resolve import resolve

DLIB = "dlib_face_recognition"
TINY_CLIP = ClipAestheticsConfig(
    image_size=16, patch_size=8, width=16, layers=1, heads=2, feed_forward_dim=24, embedding_dim=6
)


def picture(seed: int, size: int = 96) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def landmarks(size: int = 96) -> np.ndarray:
    """68 points in a ring, eyes, nose and mouth where the encoders look for them."""
    angles = np.linspace(0, 2 * np.pi, 68)
    points = size * (0.5 + 0.3 * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    for row, place in {36: (30, 40), 39: (42, 40), 42: (54, 40), 45: (66, 40), 33: (48, 60)}.items():
        points[row] = np.array(place) * size / 96
    return points.astype(np.float32)


def reading(yaw: float = 0, smile: float = 0, glance: float = 0) -> FaceReading:
    mesh = np.random.default_rng(9).normal(size=(478, 3)).astype(np.float32) * 40
    mesh[[33, 133, 362, 263], :2] = [(0, 0), (40, 0), (60, 0), (100, 0)]
    mesh[[61, 291], 1] += smile  # corners of the mouth
    mesh[468:478, 0] += glance
    return FaceReading(mesh, np.array([yaw, 0, 0], np.float32))


@pytest.fixture(scope="module")
def pairs() -> ProtocolPairs:
    """Three pairs; the first two share a source, and one source's person is there twice."""
    sources = [picture(seed) for seed in (1, 2, 3)]
    targets = [picture(seed) for seed in (11, 12, 13)]
    return ProtocolPairs(
        sources=sources,
        source_landmarks=[landmarks()] * 3,
        source_people=["ann", "ben", "cleo"],
        source_of=np.array([0, 0, 1]),
        targets=targets,
        target_landmarks=[landmarks()] * 3,
        target_faces=[reading()] * 3,
        reference=targets,
    )


@pytest.fixture(scope="module")
def outputs(pairs: ProtocolPairs) -> dict[str, SwapOutputs]:
    own = [pairs.sources[row] for row in pairs.source_of]
    half = [mine // 2 + other // 2 for mine, other in zip(own, pairs.targets, strict=True)]
    return {
        "source_itself": SwapOutputs(own, [reading(yaw=10), reading(yaw=-350 + 4), None]),
        "half": SwapOutputs(half, [reading(glance=4), reading(), reading(smile=30)]),
        "somebody_else": SwapOutputs([pairs.sources[2]] * 3, [None, None, None]),
    }


def test_identity_and_retrieval(pairs: ProtocolPairs, outputs: dict[str, SwapOutputs]) -> None:
    weight = resolve(DLIB)
    weights = {DLIB: WeightFile(weight.path, weight.sha256)}
    result = protocol_scores(outputs, pairs, identity_metrics("dlib", used_in_training=False), weights)
    best = result.of("source_itself", "id_similarity_dlib")
    assert best.value == pytest.approx(1, abs=1e-5)
    assert best.sha256 == {DLIB: weight.sha256}
    assert best.metric.used_in_training is False
    half, other = (result.of(name, "id_similarity_dlib").value for name in ("half", "somebody_else"))
    assert half is not None
    assert other is not None
    assert other < half < 1
    assert [result.of(name, "top_1_dlib").value for name in ("source_itself", "somebody_else")] == [1, 0]
    certain = result.of("somebody_else", "top_5_dlib")
    assert certain.value is None
    assert certain.not_measured == ("not measured: the sources are 3 people, so rank 5 or better is certain")
    assert result.of("half", "top_1_dlib").note == "among 3 photographs of 3 people"
    assert result.of("source_itself", "top_1_dlib").count == 3


def test_attributes_are_compared_with_the_target(
    pairs: ProtocolPairs, outputs: dict[str, SwapOutputs]
) -> None:
    metrics = attribute_metrics("mesh", ())
    result = protocol_scores(outputs, pairs, metrics, {})
    pose = result.of("source_itself", "pose")
    assert pose.values_N == pytest.approx([10, 14, np.nan], nan_ok=True)
    assert (pose.value, pose.count) == (pytest.approx(12), 2)
    assert None not in (pose.low, pose.high)
    assert float(pose.low or 0) <= float(pose.value or 0) <= float(pose.high or 0)
    assert pose.note == "no face was found in 1 of 3 pictures"
    gaze, expression = (np.asarray(result.of("half", name).values_N) for name in ("gaze", "expression"))
    assert gaze == pytest.approx([0.1, 0, 0], abs=1e-6)
    assert expression[:2] == pytest.approx([0, 0], abs=1e-6)
    assert expression[2] > 0.01
    nobody = result.of("somebody_else", "pose")
    assert nobody.value is None
    assert nobody.not_measured == "not measured: no face was found in any of 3 pictures"


def test_what_is_absent_says_why(pairs: ProtocolPairs, outputs: dict[str, SwapOutputs]) -> None:
    metrics = [fid_inception(), lpips_metric()]
    result = protocol_scores(outputs, pairs, metrics, {"vgg16": "weight vgg16 is not here (never pulled)"})
    rows = json.loads(json.dumps(result.rows()))
    assert [row["metric"] for row in rows] == ["fid_inception"] * 3 + ["lpips"] * 3
    assert all(row["value"] is None and row["count"] == 0 for row in rows)
    assert rows[0]["not_measured"] == "not measured: weight fid_inception is not here"
    assert rows[3]["not_measured"] == (
        "not measured: weight vgg16 is not here (never pulled); weight lpips_vgg is not here"
    )


def test_a_frechet_metric_streams_pictures_of_any_size(
    pairs: ProtocolPairs, outputs: dict[str, SwapOutputs]
) -> None:
    made = [picture(31, 20), picture(32, 20), picture(33, 30)]
    metric = frechet_metric("clip_frechet", "mean colour", 3, lambda path, device: lambda x: x.mean((2, 3)))
    weights = {"clip_vit_b32": WeightFile(Path("unread"), "00")}
    result = protocol_scores({"m": SwapOutputs(made, [None] * 3)}, pairs, [metric], weights)
    colours = [[image.mean(axis=(0, 1)) / 255 for image in images] for images in (made, pairs.targets)]
    wanted = frechet_distance(*map(statistics_of, colours))
    found = result.of("m", "clip_frechet")
    assert found.value == pytest.approx(wanted.value, rel=1e-4)
    assert (found.low, found.high) == (None, None)
    assert "3 pictures for 3 dimensions" in found.note


def test_clip_features_are_those_of_the_tower(tmp_path: Path) -> None:
    torch.manual_seed(4)
    tower = ClipAesthetics(TINY_CLIP).clip.eval()
    path = tmp_path / "model.safetensors"
    state = {name: value.clone() for name, value in tower.state_dict().items() if "position_ids" not in name}
    save_file(state | {"text_model.embeddings.weight": torch.zeros(2), "logit_scale": torch.zeros(1)}, path)
    extract = clip_features(tmp_path, TINY_CLIP)
    pictures = [picture(seed, 20) for seed in (1, 2)]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        wanted = tower(pixel_values=clip_input(x, 16)).image_embeds
    assert torch.allclose(extract(x), wanted, atol=1e-6)
    found = feature_statistics(pictures, extract, 6)
    assert found.mean_D == pytest.approx(wanted.double().mean(dim=0).numpy(), abs=1e-6)


def test_refusals(pairs: ProtocolPairs, outputs: dict[str, SwapOutputs]) -> None:
    metric = lpips_metric()
    with pytest.raises(ValueError, match="two metrics have one name"):
        protocol_scores(outputs, pairs, [metric, metric], {})
    with pytest.raises(ValueError, match="few has 1 pictures and 1 readings for 3 pairs"):
        protocol_scores({"few": SwapOutputs([picture(1)], [None])}, pairs, [metric], {})


def test_the_list_of_pairs_is_pinned(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    ffhq_pairs.main([str(path)])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ffhq_pairs.CSV_SHA256
    listed = read_swap_pairs(path)
    assert [(pair.source, pair.target) for pair in (listed[0], listed[-1])] == [
        ("69000/69000", "68000/68000"),
        ("69999/69999", "68999/68999"),
    ]
    assert len({pair.source for pair in listed} | {pair.target for pair in listed}) == 2000
    assert all(pair.truth is None for pair in listed)
