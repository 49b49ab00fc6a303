from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.identity.world_embedder import WorldEmbedder, WorldNetwork, save_world_network
from models.swap import config as swap_config
from models.swap.base import SwapBase, load_base
from models.swap.detected_frames import DetectedFrames, DetectorFiles
from models.swap.pretraining import fresh_base, main
from models.swap.pretraining_data import (
    MixedData,
    WorldConfig,
    WorldData,
    build_pool,
    joined,
    render_scene,
    world_people,
)
from models.swap.pretraining_evaluation import BaseReport, SwapNumbers, evaluate, gate
from models.worlds import Attributes
from resources.weights.resolve import resolve

WORLD = WorldConfig(seed=5, people=24, photos=2, scenes=30)


@pytest.fixture(scope="module")
def fresh_embedder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("embedder") / "fresh.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_world_network(path, WorldNetwork())
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    embedder = WorldEmbedder(_packaged("identity", "world_embedder.safetensors"))
    return build_pool(swap_config.tiny(), WORLD, embedder, tmp_path_factory.mktemp("pool"), lambda line: None)


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    """The same world, its scenes annotated by the detectors of the CPU profiles."""
    roles = ("centerface", "face_landmarker", "selfie_segmenter")
    detectors = DetectedFrames(DetectorFiles(*(resolve(role).path for role in roles)), 32)
    embedder = WorldEmbedder(_packaged("identity", "world_embedder.safetensors"))
    told: list[str] = []
    made = build_pool(
        swap_config.tiny(),
        WORLD.model_copy(update={"detected": True}),
        embedder,
        tmp_path_factory.mktemp("detected"),
        told.append,
        detectors=detectors,
    )
    return made, told


def _packaged(part: str, name: str) -> Path:
    return Path(str(importlib.resources.files(f"models.{part}"))) / "checkpoints" / name


def test_pool_holds_exact_swaps_of_three_people_per_scene(pool):
    people = world_people(WORLD)
    person_S3 = pool.person_N.reshape(30, 3)
    assert all(len(set(row)) == 3 for row in person_S3.tolist())
    assert np.array_equal(person_S3[:, 0], pool.scene_person_S)
    for row in (0, 4, 89):
        scene = pool.scene_N[row : row + 1]
        again = render_scene(people[pool.person_N[row : row + 1]], Attributes(pool.attributes_S[scene]), 32)
        assert np.array_equal(again[0], pool.targets_NHWC[row])
    # The condition is the first person's picture with the face hidden: its corners are untouched.
    firsts, conditions = pool.targets_NHWC.reshape(30, 3, 32, 32, 3)[:, 0], pool.conditions_SHWC
    assert np.array_equal(firsts[:, 0, ::31], conditions[:, 0, ::31])
    assert np.abs(firsts[:, 12:20, 12:20].astype(int) - conditions[:, 12:20, 12:20]).mean() > 10


def test_joined_pools_keep_everyone_apart(pool):
    both = joined([pool, pool])
    rows, scenes, people = len(pool.targets_NHWC), len(pool.conditions_SHWC), len(pool.chips_PKHW3)
    for name, offset in (("person_N", people), ("scene_N", scenes), ("scene_person_S", people)):
        first, second = np.split(getattr(both, name), 2)
        assert np.array_equal(first, getattr(pool, name))
        assert np.array_equal(second, first + offset)
    for row in (0, rows - 1):
        again = row + rows
        assert np.array_equal(both.targets_NHWC[again], pool.targets_NHWC[row])
        for whole, part, index in (
            (both.embeddings_PKD, pool.embeddings_PKD, "person_N"),
            (both.conditions_SHWC, pool.conditions_SHWC, "scene_N"),
            (both.attributes_S, pool.attributes_S, "scene_N"),
        ):
            assert np.array_equal(whole[getattr(both, index)[again]], part[getattr(pool, index)[row]])


def test_detectors_annotate_the_same_scenes(pool, detected):
    made, told = detected
    assert np.array_equal(made.targets_NHWC, pool.targets_NHWC)
    assert np.array_equal(made.embeddings_PKD, pool.embeddings_PKD)
    found = int(next(line for line in told if "a face was found" in line).split()[5])
    assert found >= 28
    changed = (made.conditions_SHWC != pool.conditions_SHWC).any(axis=(1, 2, 3))
    assert found - 1 <= changed.sum() <= found  # a scene without a face keeps its exact condition
    # it is the same photograph, with dots and the squeezed face a little elsewhere
    difference = np.abs(made.conditions_SHWC.astype(int) - pool.conditions_SHWC).mean(axis=(1, 2, 3))
    assert 1 < difference[changed].mean() < 30


def test_a_detected_world_without_detectors_is_refused(pool, tmp_path):
    world = WORLD.model_copy(update={"detected": True, "people": 3, "scenes": 1})
    with pytest.raises(ValueError, match="need detectors"):
        build_pool(
            swap_config.tiny(),
            world,
            WorldEmbedder(_packaged("identity", "world_embedder.safetensors")),
            tmp_path,
        )


@pytest.mark.parametrize(("share", "second"), [(0.0, 0), (1.0, 64), (0.5, 31)])
def test_mixed_data_takes_its_share_and_keeps_rows_together(pool, detected, share, second):
    _, codec = fresh_base(swap_config.tiny(), pool, 0)
    kinds = (WorldData(pool, codec), WorldData(detected[0], codec))
    data = MixedData(kinds[0], kinds[1], share)
    choices = data.draw(np.random.default_rng(3), 64)
    assert choices[:, 0].sum() == second
    batch = data.read(choices)
    for row in (0, 1, 31, 63):
        own = kinds[choices[row, 0]].read(choices[row : row + 1, 1:])
        for name in ("target_latents_BLC", "condition_latents_BLC", "identity_BD"):
            torch.testing.assert_close(getattr(batch, name)[row], getattr(own, name)[0])


def test_world_data_takes_the_identity_from_the_targets_person(pool):
    _, codec = fresh_base(swap_config.tiny(), pool, 0)
    data = WorldData(pool, codec)
    batch = data.read(data.draw(np.random.default_rng(1), 50))
    again = data.read(data.draw(np.random.default_rng(1), 50))
    assert torch.equal(batch.target_latents_BLC, again.target_latents_BLC)
    latents = codec.encode(pool.targets_NHWC)
    for row in range(50):
        found = int((latents - batch.target_latents_BLC[row]).abs().sum(dim=(1, 2)).argmin())
        photos = pool.embeddings_PKD[pool.person_N[found]]
        assert any(np.array_equal(photo, batch.identity_BD[row].numpy()) for photo in photos)
        condition = codec.encode(pool.conditions_SHWC[pool.scene_N[found]][None])[0]
        torch.testing.assert_close(batch.condition_latents_BLC[row], condition, rtol=1e-4, atol=1e-4)


def test_evaluation_reference_rows(pool):
    model, codec = fresh_base(swap_config.tiny(), pool, 0)
    base = SwapBase(model.eval(), codec, swap_config.tiny(), "")
    report = evaluate(base, pool, WORLD, 12, steps=2)
    assert report["swaps"]["copy target"]["leak"] == 1.0
    assert report["swaps"]["copy target"]["rank_1_of_20"] < 0.5
    assert report["swaps"]["ceiling"]["leak"] == 0.0
    assert report["swaps"]["ceiling"]["rank_1_of_20"] > 0.9
    assert report["swaps"]["ceiling"]["psnr"] > report["swaps"]["copy target"]["psnr"]
    # A silent output map predicts zero velocity whatever the identity: the loss is the mean squared velocity.
    for losses in report["loss"].values():
        assert losses["right"] == losses["wrong"] == losses["none"]
        assert 1.5 < losses["right"] < 2.5


def _report(rank: float, wrong: float) -> BaseReport:
    swaps: dict[str, SwapNumbers] = {
        f"id_guidance {scale}": {"psnr": 20.0, "rank_1_of_20": rank * share, "leak": 0.1}
        for scale, share in ((1, 0.5), (2, 1.0), (3, 0.9), (4, 0.8), (6, 0.2))
    }
    return {"loss": {"t=0.6": {"right": 0.2, "wrong": wrong, "none": 0.2}}, "swaps": swaps}


def test_gate_asks_for_both_numbers_at_the_best_guidance():
    assert gate(_report(0.7, 0.22)) == {
        "rank_1_of_20": 0.7,
        "id_guidance_scale": 2.0,
        "leak": 0.1,
        "wrong_over_right": 0.1,
        "passed": True,
    }
    assert not gate(_report(0.69, 0.22))["passed"]
    assert not gate(_report(0.9, 0.219))["passed"]


def test_the_command_stops_early_goes_on_from_there_and_holds_the_gate(fresh_embedder, tmp_path, capsys):
    arguments = ["--embedder", str(fresh_embedder), "--people", "6", "--photos", "2", "--scenes", "8"]
    arguments += ["--steps", "4", "--batch-size", "4", "--held-out-people", "24", "--held-out-scenes", "8"]
    arguments += ["--held-out-pairs", "2", "--checkpoint-interval", "2"]
    first, second = tmp_path / "first" / "base.safetensors", tmp_path / "second" / "base.safetensors"
    early = ["--work", str(first.parent), "--output", str(first), "--stop-after", "2"]
    main([*arguments, *early])
    written = first.read_bytes()
    main([*arguments, *early])
    assert "world pool loaded" in capsys.readouterr().out
    assert first.read_bytes() == written
    assert not first.with_name("base_gate.json").exists()
    start = ["--start-from", str(first), "--downsample-size", "8", "--timestep-shift", "4"]
    start += ["--more-seeds", "5"]
    with pytest.raises(SystemExit, match="does not pass its gate"):
        main([*arguments, *start, "--work", str(second.parent), "--output", str(second)])
    assert capsys.readouterr().out.count("embedded 12 photos") == 2
    assert second.stat().st_size < 5_000_000
    assert load_base(second).config == swap_config.tiny()
    before, after = load_file(first), load_file(second)
    name = "model.identity_encoder.network.0.weight"
    assert 0 < (before[name] - after[name]).abs().max() < 0.02
    assert torch.equal(before["codec.mean"], after["codec.mean"])
    numbers = json.loads(second.with_name("base_gate.json").read_text())
    assert set(numbers["held_out"]) == {"loss", "swaps"}
    assert numbers["gate"]["passed"] is False
    log = second.with_name("base_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [4]


def test_the_shipped_base_swaps_identity(pool):
    """The committed file, on people it never saw. Its gate's verdict lies beside it, on 200 pairs."""
    path = _packaged("swap", "tiny_base.safetensors")
    assert (path.parent / "MODEL_CARD.md").is_file()
    recorded = json.loads((path.parent / "tiny_base_gate.json").read_text())
    assert gate(recorded["held_out"]) == recorded["gate"]
    assert recorded["gate"]["passed"]
    base = load_base(path)
    assert base.config == swap_config.tiny()
    verdict = gate(evaluate(base, pool, WORLD, 24, steps=12))
    assert verdict["wrong_over_right"] >= 0.2
    assert verdict["rank_1_of_20"] >= 0.6
    assert verdict["leak"] <= 0.2
