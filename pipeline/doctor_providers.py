"""The doctor, provider by provider: what can compute here, and what each stage of the profile would run on.

A provider is a library that runs networks (torch, onnxruntime, MediaPipe, OpenCV) or that moves work and data
(Ray, Lance). Whether a network really runs is tried elsewhere (`doctor_probes.py`); here it is said where it
would run and in which number format, and what a stage asks for and is not here is a failure of that stage.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

from assets.frontier_config import FrontierConfig
from assets.prompt_embeddings import PromptEmbeddingsConfig
from assets.stage import RowStage, Stage, StageGraph
from assets.swap_base import BaseConfig, CodecSource
from assets.triplet_scores import TripletScoresConfig
from models.numerics_config import Numerics
from pipeline.doctor_processes import Check, Job
from resources.compute.device import DeviceChoice, DeviceUnavailable, choose_device
from resources.compute.engine_choice import EngineChoice, choose_engine

MEDIAPIPE, OPENCV, ONNXRUNTIME = "MediaPipe", "OpenCV dnn", "onnxruntime"

PROVIDER_OF_ROLE = {
    "antelopev2": ONNXRUNTIME,
    "centerface": OPENCV,
    "face_landmarker": MEDIAPIPE,
    "selfie_segmenter": MEDIAPIPE,
    "sface": OPENCV,
}
"""Which library runs a model file, where it is not torch."""

ON_THE_CPU = DeviceChoice("cpu", "float32", "its processes are given no GPU")

RAY_REMEDY = "pip install 'orchard-faces[ray]', or choose the engine local"


@dataclass(frozen=True)
class Place:
    """Where one provider would run a stage's networks, in words, or what is missing."""

    provider: str
    where: str
    missing: str = ""
    remedy: str = ""


def check_providers() -> list[Check]:
    """One check for each provider: version, and what it can run on here. What is not installed is told."""
    tellers: Mapping[str, Callable[[], str]] = {
        "torch": _torch,
        "onnxruntime": _onnxruntime,
        "mediapipe": _mediapipe,
        "opencv-contrib-python": _opencv,
        "pylance": lambda: "folders of this machine and s3:// URIs",
        "ray": _ray,
    }
    checks = []
    for distribution, tell in tellers.items():
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            checks.append(Check(f"runs {distribution}", True, "not installed"))
            continue
        checks.append(Check(f"runs {distribution}", True, f"{version}: {tell()}"))
    return checks


def check_stages(graph: StageGraph, device: str) -> tuple[list[Check], list[Job]]:
    """One check for each stage: what it would run on. Also jobs that try compilers that stages ask for."""
    try:
        engine = choose_engine()
    except ValueError as error:
        return [Check("engine", False, str(error), "mend the variable of the environment")], []
    checks = [_check_engine(engine)]
    try:
        choice: DeviceChoice | DeviceUnavailable = choose_device(device)
    except DeviceUnavailable as error:
        choice = error
    for stage in graph.stages:
        given_none = engine.name == "ray" and isinstance(stage, RowStage) and not stage.resources.num_gpus
        checks.append(_check_stage(stage, ON_THE_CPU if given_none and device == "auto" else choice, engine))
    jobs = []
    if isinstance(choice, DeviceChoice) and (names := compiled(graph)):
        kind = choice.device.partition(":")[0]
        remedy = f"install a compiler as the message says, or set `compile` to false ({', '.join(names)})"
        jobs.append(Job(f"compiler for {kind}", "compiler", kind, remedy))
    return checks, jobs


def compiled(graph: StageGraph) -> list[str]:
    """Names of the stages whose profile asks for compiling."""
    return [stage.name for stage in graph.stages if _compiles(stage)]


def places(stage: Stage, choice: DeviceChoice) -> list[Place]:
    """Where the providers of a stage would run, on a device that was chosen; none where it has no network."""
    roles: dict[str, list[str]] = {}
    for role in stage.weights:
        roles.setdefault(PROVIDER_OF_ROLE.get(role, "torch"), []).append(role)
    found = []
    for provider in roles:
        if provider == MEDIAPIPE:
            found.append(Place(provider, "CPU (XNNPACK)"))
        elif provider == OPENCV:
            found.append(Place(provider, "CPU"))
        elif provider == ONNXRUNTIME:
            found.append(_onnxruntime_place(choice.device))
        else:
            found.append(Place(provider, f"{choice.device} {_precision(stage, choice)}"))
    return found


def _check_stage(stage: Stage, choice: DeviceChoice | DeviceUnavailable, engine: EngineChoice) -> Check:
    name = f"stage {stage.name}"
    if isinstance(choice, DeviceUnavailable):
        # the runner asks for the device before any stage, whatever computes it
        return Check(name, False, "the device that was asked for is not here", "see the check `device`")
    found = places(stage, choice)
    told = ", ".join(f"{place.provider} {place.where}" for place in found) or "no network: the CPU"
    if _compiles(stage):
        told += ", compiled"
    missing = [place for place in found if place.missing]
    if missing:
        return Check(
            name,
            False,
            f"{told}; {'; '.join(place.missing for place in missing)}",
            "; ".join(place.remedy for place in missing),
        )
    if isinstance(stage, RowStage) and engine.name == "ray":
        told += f"; a process takes {stage.resources.told()}"
        lacking = _lacking_gpus(stage.resources.num_gpus, engine)
        if lacking:
            remedy = "change the stage's resources in the profile, or name a cluster that has them"
            return Check(name, False, f"{told}; {lacking}", remedy)
    return Check(name, True, told)


def _check_engine(engine: EngineChoice) -> Check:
    told = f"{engine.name}: {engine.reason}"
    if engine.name == "ray" and importlib.util.find_spec("ray") is None:
        return Check("engine", False, f"{told}; Ray is not installed", RAY_REMEDY)
    return Check("engine", True, told)


def _lacking_gpus(asked: float, engine: EngineChoice) -> str:
    """What a cluster of this machine would not have; of another cluster nothing is known here."""
    import torch

    here = torch.accelerator.device_count()
    if engine.address is not None or asked <= here:
        return ""
    return f"it asks for {asked:g} GPU, and this machine has {here}"


def _compiles(stage: Stage) -> bool:
    numerics, base = _numerics(stage), _base(stage)
    return bool((numerics and numerics.compile) or (base and base.compile))


def _numerics(stage: Stage) -> Numerics | None:
    return stage.numerics if isinstance(stage, RowStage) else None


def _base(stage: Stage) -> BaseConfig | None:
    config = stage.config.swaps if isinstance(stage.config, FrontierConfig) else stage.config
    base = getattr(config, "base", None)
    return base if isinstance(base, BaseConfig) else None


def _precision(stage: Stage, choice: DeviceChoice) -> str:
    """The number format of a stage's torch networks: its numerics', its base's, or float32.

    Where a base is opened beside networks that judge, it is the base's.
    """
    numerics, base = _numerics(stage), _base(stage)
    if isinstance(stage, RowStage) and numerics is not None:
        from models.numerics import choose_numerics

        return choose_numerics(numerics, choice.device, choice.dtype, stage.exact).precision
    if isinstance(stage.config, TripletScoresConfig):
        return "in the formats of the annotation stages"
    codec = getattr(stage.config, "codec", None)
    if base is not None:
        return base.model.base_dtype
    if isinstance(codec, CodecSource):
        return codec.precision
    if isinstance(stage.config, PromptEmbeddingsConfig):
        return stage.config.precision
    return "float32"


def _onnxruntime_place(device: str) -> Place:
    from models.identity.face_analysis import FaceAnalysisError, execution_providers

    where = f"for {device}"
    try:
        first = execution_providers(device)[0]
    except ImportError as error:
        remedy = "pip install 'orchard-faces[insightface]'"
        return Place(ONNXRUNTIME, where, f"it is not installed ({error})", remedy)
    except FaceAnalysisError as error:
        remedy = "install what the message names, or ask for the device cpu"
        return Place(ONNXRUNTIME, where, str(error), remedy)
    return Place(ONNXRUNTIME, first if isinstance(first, str) else f"{first[0]} of {device}")


def _torch() -> str:
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count()
    gpus = f"{count} GPU(s) called {kind.type}" if kind is not None else "no GPU that it was built for"
    return f"the CPU with {torch.get_num_threads()} thread(s), {gpus}"


def _onnxruntime() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())


def _mediapipe() -> str:
    return "the CPU (XNNPACK); its Python package has no other delegate that we ask for"


def _opencv() -> str:
    import cv2

    devices = cv2.cuda.getCudaEnabledDeviceCount()
    return "dnn on the CPU" + (
        f"; {devices} CUDA device(s), which its dnn is not asked for" if devices else ""
    )


def _ray() -> str:
    return "processes on this machine or a cluster; `--engine ray`"
