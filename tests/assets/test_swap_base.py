"""From a hub folder and PuLID's file to a training step and a swap, through the stages' own loading code."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from assets.artifacts import run_artifact
from assets.checks.artifact_files import artifact_complete
from assets.planner import Planner
from assets.prompt_embeddings import prompt_embeddings_config, prompt_embeddings_stage
from assets.stage import StageContext, StageGraph
from assets.swap_base import (
    PROMPTS_FILE,
    BaseConfig,
    execution_settings,
    open_base,
    open_codec,
    read_prompt_artifact,
)
from assets.training import checkpoint_folder
from pipeline.profiles import PROFILES
from resources.lake.errors import LakeError
from resources.lake.lake import Lake
from resources.weights.entries import HubFolderWeight
from resources.weights.ledger import Trust, now, record_trust
from resources.weights.licences import accept
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import ResolvedWeight, folder_sha256, resolve, sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {role: MANIFEST[role] for role in ("flux_krea", "flux_krea_codec", "flux_krea_text")}


@pytest.fixture(scope="module")
def hub(flux_files: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache that holds a small FLUX, as if it had been pulled, and PuLID's file."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "models--black-forest-labs--FLUX.1-Krea-dev" / "snapshots" / COMMIT
    flux_files.write_hub_folder(folder, flux_files.small_config(), shard_size="100KB")
    flux_files.write_pulid(root / "pulid.safetensors", flux_files.small_config())
    return root


@pytest.fixture
def small(hub: Path, flux_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The base's config, an empty lake, and contexts in which weights come from the ledger."""
    monkeypatch.setenv("ORCHARD_WEIGHTS", str(tmp_path / "weights"))
    own = shutil.copytree(hub, tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(own))
    folder = own / "models--black-forest-labs--FLUX.1-Krea-dev" / "snapshots" / COMMIT
    for entry in HUB.values():
        assert isinstance(entry, HubFolderWeight)
        digest = folder_sha256(folder, entry)
        record_trust(entry.role, Trust(sha256=digest, size=1, revision=COMMIT, on=now()))
    accept(list(HUB.values()), "research")
    base = BaseConfig(
        transformer="flux_krea",
        codec="flux_krea_codec",
        text="flux_krea_text",
        identity="pulid_flux",
        former=flux_files.FORMER,
        model=flux_files.small_config(),
    )
    lake = Lake.open(tmp_path / "lake", create=True)

    def context(*roles: str) -> StageContext:
        path = own / "pulid.safetensors"
        weights = {
            role: resolve(role) if role in HUB else ResolvedWeight(role, path, sha256(path), "")
            for role in roles
        }
        return StageContext(lake, weights, "cpu", lambda text: None)

    return SimpleNamespace(base=base, lake=lake, context=context, folder=folder, root=own)


def _embed(small: Any, **changes: Any) -> Any:
    """Make and register the prompt embeddings, with changed settings if asked for."""
    config = prompt_embeddings_config(small.base).model_copy(update=changes)
    stage = prompt_embeddings_stage(config)
    artifact = stage.build(small.context(*stage.weights), b"fingerprint")
    small.lake.record_artifact(artifact)
    return artifact


def test_a_published_base_is_encoded_assembled_trained_and_swaps(
    small: Any, flux_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import CLIPTextModel, T5EncoderModel

    from models.identity.id_former import load_id_former
    from models.swap.checkpoint import CheckpointManifest, save_checkpoint
    from models.swap.data import TeacherData
    from models.swap.sampling_config import SamplingConfig
    from models.swap.swapper import Swapper
    from models.swap.training import train
    from models.swap.training_recipe import TrainingRecipe

    artifact = _embed(small)
    assert artifact_complete(small.lake, "prompt_embeddings").passed
    stored, _ = read_prompt_artifact(small.lake)
    prompts = ["", "a photo of human face"]
    tokens, pooled = flux_files.diffusers_prompts(small.folder, prompts, 8, torch.bfloat16)
    with torch.no_grad():
        former = load_id_former(small.root / "pulid.safetensors", flux_files.FORMER)
        zeros = [torch.zeros(1, 577, 16)] * 2
        nobody = former(torch.zeros(1, 12), zeros)[0]
    assert torch.equal(stored.tokens_2TD, tokens)
    assert torch.equal(stored.pooled_2D, pooled)
    assert stored.unconditional_TD is not None
    assert torch.equal(stored.unconditional_TD, nobody)

    # From here on no text encoder exists, and whoever asks for one fails.
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(small.folder / name)
    for kind in (CLIPTextModel, T5EncoderModel):
        monkeypatch.setattr(kind, "from_pretrained", None)
        monkeypatch.setattr(kind, "__init__", None)
    context = small.context(*small.base.roles)
    base = open_base(context, small.base)
    assert base.model.flux.dtype == torch.bfloat16
    assert torch.equal(base.model.prompts.tokens, tokens.float())
    assert torch.equal(base.model.identity_encoder.unconditional(1)[0], nobody)

    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    latents = open_codec(context, small.base.codec_source).encode(images)
    assert torch.equal(latents, base.codec.encode(images))
    identity = np.random.default_rng(1).standard_normal((6, 64)).astype(np.float32)
    data = TeacherData(latents.numpy(), latents.numpy() * 0.5, identity, np.arange(6) // 2)
    recipe = TrainingRecipe(steps=1, batch_size=2, learning_rate=1e-2, identity_loss_weight=0.0)
    result = train(
        base.model,
        data,
        recipe,
        tmp_path / "run",
        codec=base.codec,
        black_latents_LC=base.black_latents_LC(),
    )
    assert {value.dtype for value in result.lora_state.values()} == {torch.float32}
    manifest = CheckpointManifest(config=base.config, recipe=recipe, base_sha256=base.sha256)
    folder = save_checkpoint(tmp_path / "checkpoints", result.lora_state, manifest)
    swapper = Swapper.on_base(open_base(context, small.base), folder)
    sampling = SamplingConfig(steps=2, id_guidance_scale=2.0)
    out = swapper.swap(torch.from_numpy(identity[:2]), latents[2:4], latents[2:4], sampling, [0, 1])
    assert torch.isfinite(out).all()
    assert swapper.base.codec.decode(out).shape == (2, 32, 32, 3)
    assert artifact.metadata["bytes"] < 5_000


def test_the_name_of_a_base_covers_every_file_and_the_prompts(small: Any, flux_files: ModuleType) -> None:
    _embed(small)
    roles = small.base.roles
    assert roles == ("flux_krea", "flux_krea_codec", "pulid_flux")
    context = small.context(*roles)
    names = {open_base(context, small.base).sha256}
    for role in roles:
        weights = {**context.weights, role: dataclasses.replace(context.weights[role], sha256="0" * 64)}
        names.add(open_base(dataclasses.replace(context, weights=weights), small.base).sha256)
    first = read_prompt_artifact(small.lake)[0]
    _embed(small, prompt="a human face")
    names.add(open_base(context, small.base).sha256)
    assert len(names) == 5
    again = read_prompt_artifact(small.lake)[0]
    assert not np.array_equal(first.tokens_2TD.float(), again.tokens_2TD.float())
    _embed(small)
    assert open_base(context, small.base).sha256 in names


def test_what_is_missing_is_said(small: Any) -> None:
    context = small.context(*small.base.roles)
    with pytest.raises(LakeError, match="there is no prompt_embeddings in"):
        open_base(context, small.base)
    artifact = _embed(small)
    untrained = small.base.model_copy(update={"identity": None})
    with pytest.raises(LakeError, match="flux_krea has no identity attention of its own"):
        open_base(context, untrained)
    path = Path(small.lake.uri) / artifact.location / PROMPTS_FILE
    path.write_bytes(path.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(LakeError, match="orchard run prompt_embeddings --force"):
        open_base(context, small.base)
    assert not artifact_complete(small.lake, "prompt_embeddings").passed
    assert _embed(small).digest == artifact.digest
    open_base(context, small.base)


def test_a_base_of_our_own_walks_the_same_stage(tmp_path: Path) -> None:
    graph = PROFILES["smoke"].graph()
    lake = Lake.open(tmp_path / "lake", create=True)
    stage: Any = graph["prompt_embeddings"]
    made = run_artifact(lake, StageGraph((stage,)), stage, device="cpu", report=lambda text: None)
    again = run_artifact(lake, StageGraph((stage,)), stage, device="cpu", report=lambda text: None)
    assert (made.made, again.made) == (True, False)
    config: Any = graph["teacher"].config
    weights = graph["teacher"].resolve_weights()
    base = open_base(StageContext(lake, weights, "cpu", print), config.base)
    assert base.config == config.base.model
    from models.swap.base import load_base

    plain = load_base(weights["tiny_base"].path)
    for name, value in plain.model.state_dict().items():
        assert np.array_equal(base.model.state_dict()[name], value), name
    assert base.sha256 != plain.sha256 == weights["tiny_base"].sha256


@pytest.mark.parametrize("name", PROFILES)
def test_every_stage_that_opens_a_base_depends_on_its_prompts(name: str) -> None:
    graph = PROFILES[name].graph()
    names = graph.names
    for stage in ("teacher", "pseudo_triplets", "student", "swaps"):
        assert "prompt_embeddings" in [item.stage for item in graph[stage].tracked], stage
        assert names.index("prompt_embeddings") < names.index(stage)
    text = {role for role in graph["prompt_embeddings"].weights if role.endswith("_text")}
    readers = [stage.name for stage in graph.stages if text & set(stage.weights)]
    assert readers == (["prompt_embeddings"] if text else [])


def test_changed_prompts_make_what_is_made_with_them_stale(
    smoke_lake: Any, tmp_path: Path, changed: Callable[..., StageGraph]
) -> None:
    graph, lake = PROFILES["smoke"].graph(), smoke_lake.copy_to(tmp_path).lake
    assert not Planner(lake, graph).artifact("teacher").stale
    current = lake.current_artifact("prompt_embeddings")
    assert current is not None
    lake.record_artifact(dataclasses.replace(current, digest=bytes(16)))
    plan = Planner(lake, graph)
    assert plan.artifact("teacher").why == ("input:prompt_embeddings",)
    assert plan.table("swaps").stages["swaps"].stale.all()
    assert plan.table("triplets").stages["pseudo_triplets"].stale.all()
    assert not plan.table("faces").stages["latents"].stale.any()
    config = graph["prompt_embeddings"].config.model_copy(update={"prompt": "somebody"})
    other = changed(graph, "prompt_embeddings", config=config)
    assert Planner(lake, other).artifact("prompt_embeddings").why == ("config",)
    assert Planner(lake, other).artifact("teacher").waiting


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_checkpoints_of_another_base_swap_nobody(smoke_lake: Any, tmp_path: Path, name: str) -> None:
    """Both are held to the base, though the teacher alone is put on it first."""
    from models.swap.lora_files import LoraMismatch

    shutil.copytree(smoke_lake.lake.uri, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    stage: Any = PROFILES["smoke"].graph()["swaps"]
    context = StageContext(lake, stage.resolve_weights(), "cpu", lambda text: None)
    artifact = lake.current_artifact(name)
    assert artifact is not None
    manifest = checkpoint_folder(lake, artifact) / "manifest.json"
    told = json.loads(manifest.read_text())
    assert told["base_sha256"] == stage.load(context).swapper.base.sha256
    manifest.write_text(json.dumps({**told, "base_sha256": "0" * 64}))
    with pytest.raises(LoraMismatch, match="was trained on base 000"):
        stage.load(context)


def test_how_the_base_runs_is_the_machines_business(monkeypatch: pytest.MonkeyPatch) -> None:
    assert execution_settings().attention == "auto"
    monkeypatch.setenv("ORCHARD_ATTENTION", "math")
    monkeypatch.setenv("ORCHARD_CONDITION_CACHE", "off")
    monkeypatch.setenv("ORCHARD_READER_PROCESSES", "2")
    expected = {"attention": "math", "condition_cache": "off", "reader_processes": 2}
    assert execution_settings().model_dump() == expected
    monkeypatch.setenv("ORCHARD_ATTENTION", "fast")
    with pytest.raises(LakeError, match="ORCHARD_ATTENTION: Input should be 'auto'"):
        execution_settings()
