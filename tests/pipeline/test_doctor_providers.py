"""The doctor by provider: where each stage would run, and what it asks for that is not here."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from assets.masks_networks import NetworkMasksConfig, masks_networks_stage
from assets.stage import RowStage, StageGraph
from models.numerics_config import Numerics
from pipeline.doctor_probes import PROBES
from pipeline.doctor_processes import Check
from pipeline.doctor_providers import check_providers, check_stages, compiled, places
from pipeline.profiles import profile
from resources.compute.demand import StageResources
from resources.compute.device import DeviceChoice

GPU = DeviceChoice("cuda:0", "bfloat16", "as on a machine with one")


@pytest.fixture(autouse=True)
def no_engine_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORCHARD_ENGINE", "ORCHARD_RAY_ADDRESS", "ORCHARD_RAY_ACTORS", "ORCHARD_RAY_AUTH"):
        monkeypatch.delenv(name, raising=False)


def checked(graph: StageGraph, device: str = "cpu") -> dict[str, Check]:
    return {check.name: check for check in check_stages(graph, device)[0]}


def test_every_provider_is_told_with_its_version() -> None:
    told = {check.name.removeprefix("runs "): check.detail for check in check_providers()}
    assert told["torch"].startswith(f"{torch.__version__}: the CPU")
    assert "CPUExecutionProvider" in told["onnxruntime"]
    assert "XNNPACK" in told["mediapipe"]
    assert set(told) == {"torch", "onnxruntime", "mediapipe", "opencv-contrib-python", "pylance", "ray"}


def test_every_stage_of_the_cpu_profile_has_a_place() -> None:
    graph = profile("tiny").graph()
    found = checked(graph)
    assert {f"stage {name}" for name in graph.names} | {"engine"} == set(found)
    assert all(check.ok for check in found.values())
    assert found["stage landmarks"].detail == "OpenCV dnn CPU, MediaPipe CPU (XNNPACK)"
    assert found["stage masks"].detail == "MediaPipe CPU (XNNPACK)"
    assert found["stage iris"].detail == "no network: the CPU"
    assert found["stage latents"].detail == "torch cpu float32"
    assert found["engine"].detail == "local: no other engine was asked for"


def test_on_a_gpu_each_stage_has_its_own_format() -> None:
    graph = profile("flux-krea").graph()
    torches = {
        stage.name: place.where
        for stage in graph.stages
        for place in places(stage, GPU)
        if place.provider == "torch"
    }
    assert torches["masks"] == torches["aesthetics"] == "cuda:0 bfloat16"
    assert torches["landmarks"] == "cuda:0 float32"  # its results are pixels
    assert torches["teacher"] == torches["frontier"] == torches["latents"] == "cuda:0 bfloat16"
    assert torches["triplet_scores"] == "cuda:0 in the formats of the annotation stages"
    (onnx,) = (place for place in places(graph["identity_embedding"], GPU) if place.provider == "onnxruntime")
    assert "has only" in onnx.missing  # this machine's onnxruntime is the CPU's
    assert "onnxruntime-gpu" in onnx.missing
    asked = masks_networks_stage(NetworkMasksConfig(), Numerics(precision="float16"))
    assert [place.where for place in places(asked, GPU)] == ["cuda:0 float16"]


def test_a_device_that_is_not_here_fails_every_stage() -> None:
    found = checked(profile("tiny").graph(), "cuda:97")
    assert [check.ok for name, check in found.items() if name != "engine"] == [False] * (len(found) - 1)
    assert found["stage masks"].remedy == "see the check `device`"


def test_a_compiler_is_tried_where_a_stage_asks_for_one() -> None:
    stage = masks_networks_stage(NetworkMasksConfig(), Numerics(compile=True))
    graph = StageGraph((stage,))
    checks, jobs = check_stages(graph, "cpu")
    assert checks[-1].detail == "torch cpu float32, compiled"
    assert [(job.probe, job.argument) for job in jobs] == [("compiler", "cpu")]
    assert "masks" in jobs[0].remedy
    assert "compiler" in PROBES
    assert compiled(graph) == ["masks"]
    assert check_stages(profile("tiny").graph(), "cpu")[1] == []


def test_under_ray_a_stage_tells_what_it_takes_and_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = profile("tiny").graph()["identity_embedding"]
    assert isinstance(plain, RowStage)
    greedy = dataclasses.replace(plain, resources=StageResources(num_gpus=99, num_cpus=2))
    modest = dataclasses.replace(plain, name="modest")
    graph = StageGraph(tuple(dataclasses.replace(stage, inputs=()) for stage in (greedy, modest)))
    monkeypatch.setenv("ORCHARD_ENGINE", "ray")
    found = checked(graph)
    assert "ray: ORCHARD_ENGINE says so" in found["engine"].detail
    assert found["stage modest"].detail == "torch cpu float32; a process takes 0 GPU, 1 CPU"
    assert not found["stage identity_embedding"].ok
    assert "it asks for 99 GPU, and this machine has" in found["stage identity_embedding"].detail
    monkeypatch.setenv("ORCHARD_RAY_ADDRESS", "head.example:6379")
    assert checked(graph)["stage identity_embedding"].ok  # of that cluster nothing is known here
    monkeypatch.setenv("ORCHARD_ENGINE", "spark")
    (engine,) = check_stages(graph, "cpu")[0]
    assert not engine.ok
    assert "spark" in engine.detail
