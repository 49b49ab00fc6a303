"""Every published annotation file in small: random numbers under published names, where `pull` puts them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from assets.aesthetics_clip import ClipAestheticsStageConfig, aesthetics_clip_stage
from assets.condition import ConditionStageConfig, condition_stage
from assets.identity_pulid import PulidConfig, identity_pulid_stage
from assets.identity_reference import IdentityReferenceConfig, identity_reference_stage
from assets.iris import iris_stage
from assets.landmarks_reconstruction import ReconstructionConfig, landmarks_reconstruction_stage
from assets.masks_networks import NetworkMasksConfig, masks_networks_stage
from assets.stage import StageGraph
from models.aesthetics.clip_network import ClipAesthetics
from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.faces.bisenet import BiSeNet
from models.faces.deeplab import DeepLabV3Plus, mmseg_key
from models.faces.network_sizes import BiSeNetConfig, DeepLabConfig, ResNetConfig
from models.faces.reconstruction.bfm import FaceModel, synthetic_face_model
from models.faces.reconstruction.five_points import STANDARD_FIVE_POINTS
from models.faces.reconstruction.network import ReconstructionNet
from models.identity.eva_clip import EvaClipVision
from models.identity.id_former import IdFormer
from models.identity.ir_se_sizes import IrSeConfig
from models.identity.loss_networks import FaceEncoderConfig
from models.identity.network_sizes import EvaClipConfig, IdFormerConfig
from models.identity.simswap_arcface import SimSwapArcFace
from resources.weights.entries import HubFolderWeight, HubWeight
from resources.weights.ledger import Trust, now, record_trust
from resources.weights.licences import accept
from resources.weights.manifest import MANIFEST
from resources.weights.pull import pull
from resources.weights.resolve import folder_sha256

BACKBONE = ResNetConfig(block="bottleneck", depths=(1, 1, 1, 1), width=4)
PARSER = BiSeNetConfig(backbone=ResNetConfig(block="basic", depths=(1, 1, 1, 1), width=8))
VISIBLE = DeepLabConfig(
    backbone=BACKBONE.model_copy(
        update={"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "deep_stem": True}
    ),
    channels=16,
    detail_channels=8,
)
CLIP = ClipAestheticsConfig(
    image_size=28, width=32, layers=2, heads=4, feed_forward_dim=48, embedding_dim=20, head_dims=(16, 8, 6, 4)
)
TOWER = EvaClipConfig(image_size=56, width=32, layers=4, head_dim=8, embedding_dim=12, hidden_after=(1, 3))
ENCODER = IdFormerConfig(
    dim=16, depth=2, heads=2, head_dim=8, id_dim=524, feature_dim=32, scales=2, output_dim=24
)
ARCFACE = IrSeConfig(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16), stem_channels=8)
REVISION = "0123456789abcdef0123456789abcdef01234567"
ROLES = (
    *("reconstruction_resnet50", "face_model", "face_parser", "visible_face", "clip_vit_l14"),
    *("aesthetic_head", "eva_clip", "pulid_flux", "antelopev2", "sface", "simswap_arcface"),
)


@pytest.fixture(scope="session")
def published_graph() -> StageGraph:
    """The annotation of flux-krea: the same stages, with small networks."""
    return StageGraph(
        (
            landmarks_reconstruction_stage(ReconstructionConfig(network=BACKBONE)),
            iris_stage(),
            masks_networks_stage(NetworkMasksConfig(parser=PARSER, visible_face=VISIBLE)),
            aesthetics_clip_stage(ClipAestheticsStageConfig(network=CLIP)),
            identity_pulid_stage(PulidConfig(parser=PARSER, tower=TOWER, encoder=ENCODER)),
            identity_reference_stage(IdentityReferenceConfig(encoder=FaceEncoderConfig(shape=ARCFACE))),
            condition_stage(ConditionStageConfig(size=128)),
        )
    )


@pytest.fixture(scope="module")  # not longer: files of other tests' profiles must not be found here
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of weights in which all roles of the small networks are accepted, recorded and converted."""
    folder = tmp_path_factory.mktemp("weights")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHARD_WEIGHTS", str(folder))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        accept([MANIFEST[role] for role in ROLES if MANIFEST[role].asks], "research")
        _write_networks(folder)
        _write_onnx(folder)
        np.save(_below(folder, "face_model", "face_model.npy"), published_dictionary(), allow_pickle=True)
        for role in ("face_model", "sface"):
            pull(role)
        yield folder


def _write_networks(folder: Path) -> None:
    parser = _random(BiSeNet(PARSER), 1)
    visible = _random(DeepLabV3Plus(VISIBLE), 2)
    visible["classifier.bias"] = torch.tensor([0.0, 0.5])
    clip = ClipAesthetics(CLIP)
    _random(clip, 3)
    reconstruction = _random(ReconstructionNet(BACKBONE), 4)
    for name in reconstruction:
        if name.startswith("final_layers."):
            reconstruction[name] = reconstruction[name] * 0.05
    tower, encoder = _random(EvaClipVision(TOWER), 5), _random(IdFormer(ENCODER), 6)
    text = {"text_model.final_layer_norm.bias": torch.zeros(4), "logit_scale": torch.zeros(())}
    rotary = {"visual.rope.freqs_cos": torch.zeros(4), "visual.rope.freqs_sin": torch.zeros(4)}
    _converted(folder, "reconstruction_resnet50", reconstruction)
    _converted(folder, "face_parser", parser)
    _converted(folder, "visible_face", {mmseg_name(name): value for name, value in visible.items()})
    _converted(folder, "simswap_arcface", _random(SimSwapArcFace(ARCFACE), 7))
    _converted(folder, "aesthetic_head", clip.mlp.state_dict())
    _converted(folder, "eva_clip", {f"visual.{name}": value for name, value in tower.items()} | rotary)
    pulid = {f"pulid_encoder.{name}": value for name, value in encoder.items()}
    _hub_file(folder, "pulid_flux", pulid | {"pulid_ca.0.norm1.bias": torch.zeros(4)})
    snapshot = _snapshot(folder, "clip_vit_l14")
    save_file(clip.clip.state_dict() | text, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text("{}")
    _trust_folder("clip_vit_l14", snapshot)


def _random(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Fill a network with random numbers that keep its outputs lively, and return them."""
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * (1.6 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(1 + 0.4 * torch.tanh(noise))
        elif not name.endswith("num_batches_tracked"):
            tensor.copy_(0.2 * noise)
    return {name: tensor.clone() for name, tensor in state.items()}


def mmseg_name(name: str) -> str:
    """The published name of a tensor of DeepLabV3+."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return f"backbone.{rest}"
    theirs = {
        "image_level": "image_pool.1",
        "pyramid": "aspp_modules",
        "pyramid_join": "bottleneck",
        "detail": "c1_bottleneck",
        "decoder": "sep_bottleneck",
        "classifier": "conv_seg",
    }[part]
    *places, leaf = rest.split(".")
    if part in ("pyramid", "decoder"):
        theirs = f"{theirs}.{places.pop(0)}"
    layers = [("conv", "bn")[int(place)] for place in places[-1:]]
    if len(places) == 2:
        layers.insert(0, ("depthwise_conv", "pointwise_conv")[int(places[0])])
    published = ".".join(["decode_head", theirs, *layers, leaf])
    assert mmseg_key(published) == name
    return published


def published_dictionary() -> np.ndarray:
    """3DDFA-V3's face_model.npy of a made-up face whose five points are where a face has them."""
    model = face_of_nobody()
    columns = model.mean_shape.size
    return np.array(
        {
            "u": model.mean_shape.reshape(columns, 1),
            "id": model.identity_basis.reshape(columns, -1),
            "exp": model.expression_basis.reshape(columns, -1),
            "alb": np.zeros((columns, 80), np.float32),
            "ldm68": model.landmarks_68,
            "ldm106": model.landmarks_106,
            "ldm134": model.landmarks_134,
            "parallel": [list(np.flatnonzero(model.profile_line == line)) for line in range(33)],
        }
    )


def face_of_nobody() -> FaceModel:
    model = synthetic_face_model(seed=1)
    places = (range(36, 42), range(42, 48), (30,), (48,), (54,))
    for point, indices in zip(STANDARD_FIVE_POINTS, places, strict=True):
        model.mean_shape[model.landmarks_68[list(indices)]] = point
    return model


def _write_onnx(folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    def write(
        path: Path, nodes: list, picture: list, outputs: list, constants: dict[str, np.ndarray]
    ) -> None:
        weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        given = helper.make_tensor_value_info(picture[0], TensorProto.FLOAT, picture[1])
        graph = helper.make_graph(nodes, path.stem, [given], outputs, weights)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))

    def embedder(path: Path, size: int) -> None:
        random = np.random.default_rng(size)
        cells: dict[str, Any] = {"kernel_shape": [16, 16], "strides": [16, 16]}
        nodes = [
            helper.make_node("AveragePool", ["data"], ["cells"], **cells),
            helper.make_node("Flatten", ["cells"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["fc1"]),
        ]
        matrix = random.normal(size=(147, size)).astype(np.float32) / 100
        output = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, size])
        write(path, nodes, ["data", [1, 3, 112, 112]], [output], {"matrix": matrix})

    pack = _snapshot(folder, "antelopev2")
    embedder(pack / "glintr100.onnx", 512)
    embedder(_below(folder, "sface", "face_recognition_sface_2021dec.onnx"), 128)
    # A detector of SCRFD's layout that sees one face, in the middle of the square, in every picture.
    nodes, outputs, constants = [], [], {}
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (8, 16, 32):
            name, anchors = f"{kind}_{stride}", 2 * (640 // stride) ** 2
            values = np.zeros((anchors, width), np.float32)
            if stride == 32:
                values[2 * (10 * 20 + 10)] = {
                    "score": 0.9,
                    "box": 4.0,
                    "points": np.array([[-1.7, -1], [1.7, -1], [0, 0.7], [-1.2, 2], [1.2, 2]]).ravel(),
                }[kind]
            constants[f"constant_{name}"] = values
            nodes.append(helper.make_node("Identity", [f"constant_{name}"], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [anchors, width]))
    write(pack / "scrfd_10g_bnkps.onnx", nodes, ["input.1", [1, 3, "height", "width"]], outputs, constants)
    _trust_folder("antelopev2", pack)


def _below(folder: Path, role: str, name: str) -> Path:
    path = folder / role / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _converted(folder: Path, role: str, tensors: dict[str, Tensor]) -> None:
    """As if the published file had been pulled and converted; its stated digest is taken as seen."""
    path = _below(folder, role, f"{role}.safetensors")
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stated = getattr(MANIFEST[role], "sha256", None) or digest
    record_trust(role, Trust(sha256=stated, size=1, converted=path.name, converted_sha256=digest, on=now()))


def _snapshot(folder: Path, role: str) -> Path:
    entry = MANIFEST[role]
    assert isinstance(entry, HubWeight | HubFolderWeight)
    name = f"models--{entry.repository.replace('/', '--')}"
    path = folder / "hub" / name / "snapshots" / REVISION
    path.mkdir(parents=True)
    return path


def _trust_folder(role: str, snapshot: Path) -> None:
    entry = MANIFEST[role]
    assert isinstance(entry, HubFolderWeight)
    record_trust(role, Trust(sha256=folder_sha256(snapshot, entry), size=1, revision=REVISION, on=now()))


def _hub_file(folder: Path, role: str, tensors: dict[str, Tensor]) -> None:
    entry = MANIFEST[role]
    assert isinstance(entry, HubWeight)
    path = _snapshot(folder, role) / entry.file
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record_trust(role, Trust(sha256=digest, size=1, revision=REVISION, on=now()))
