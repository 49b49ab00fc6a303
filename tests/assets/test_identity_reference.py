"""The stage `identity_reference`: the loss's own embedding, the crop as configured, typed reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assets.identity_reference import IdentityReferenceConfig, identity_reference_stage
from assets.identity_world import identity_world_stage
from assets.stage import RowStage, StageContext
from models.faces.frame import square_picture
from models.identity.loss_networks import FaceEncoderConfig
from models.swap.identity_crop import face_encoder
from models.worlds import render, sample_attributes, sample_identities
from resources.lake.lake import Lake
from resources.photos.reasons import Reason, RowError


def computed(stage: RowStage, lake: Lake, rows: list) -> list:
    context = StageContext(lake, stage.resolve_weights(), "cpu", print)
    return list(stage.load(context)(rows))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    torch.set_num_threads(1)
    return Lake.open(tmp_path_factory.mktemp("reference") / "lake", create=True)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    world = render(sample_identities(1, 3), sample_attributes(2, 3), size=96)
    return [
        {"image": image[:, : 96 - 8 * index], "landmarks_68": points.astype(np.float32).ravel()}
        for index, (image, points) in enumerate(zip(world.images_NHWC, world.landmarks_68_N682, strict=True))
    ]


def test_with_the_worlds_network_the_embedding_of_the_tiny_profile_serves(
    lake: Lake, rows: list[dict]
) -> None:
    """Both stages embed the same crop; how it is averaged down and rounded is all that differs."""
    encoder = FaceEncoderConfig(network="world")
    stage = identity_reference_stage(IdentityReferenceConfig(encoder=encoder))
    assert stage.weights == ("world_embedder",)
    assert stage.outputs[0].field.type.list_size == 128
    found = computed(stage, lake, rows)
    stored = computed(identity_world_stage(), lake, rows)
    for reference, embedding in zip(found, stored, strict=True):
        assert reference["identity_reference_network"] == "world"
        assert encoder.embeds_as(embedding["identity_embedder"])
        difference = reference["identity_reference"] - embedding["identity_embedding"]
        assert np.linalg.norm(difference) < 0.12
    (alone,) = computed(stage, lake, rows[1:2])
    np.testing.assert_allclose(alone["identity_reference"], found[1]["identity_reference"], atol=1e-5)


def test_a_crop_of_the_whole_frame_takes_the_models_frame(lake: Lake, rows: list[dict]) -> None:
    encoder = FaceEncoderConfig(network="world", crop="nearest_full_frame")
    stage = identity_reference_stage(IdentityReferenceConfig(encoder=encoder, frame_size=64))
    found = computed(stage, lake, rows)
    embed = face_encoder("world", stage.resolve_weights()["world_embedder"].path, "nearest_full_frame")
    frame = torch.from_numpy(square_picture(rows[2]["image"], 64))[None].permute(0, 3, 1, 2) / 255
    np.testing.assert_allclose(found[2]["identity_reference"], embed(frame)[0].numpy(), atol=1e-5)
    assert found[2]["identity_reference_network"] == "world nearest_full_frame"


def test_a_face_that_cannot_be_aligned_has_a_reason(lake: Lake, rows: list[dict]) -> None:
    stage = identity_reference_stage(IdentityReferenceConfig(encoder=FaceEncoderConfig(network="world")))
    broken = rows[0] | {"landmarks_68": np.full(136, 5, np.float32)}
    first, second = computed(stage, lake, [broken, rows[0]])
    assert isinstance(first, RowError)
    assert first.reason is Reason.NO_FACE
    assert "all in one place" in first.detail
    assert len(second["identity_reference"]) == 128
