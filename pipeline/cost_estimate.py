"""The estimate behind `orchard cost`: a profile's stages, as work and hours on named cards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from assets.diffface_config import DIFFFACE_SWAPS, DiffFaceSwapsConfig
from assets.frontier_config import FrontierConfig
from assets.pseudo_triplets import PseudoTripletsConfig
from assets.release import ReleaseConfig
from assets.stage import RowStage, StageConfig, StageGraph
from assets.swaps import SwapsConfig
from assets.training import TrainingConfig
from models.diffface.cost import swap_flops as diffface_flops
from models.swap.cost import ModelCost, by_hand, model_cost, short_text_tokens
from models.swap.cost_networks import LossNetworks, NetworkCost, annotation_network, text_encoder_costs
from models.swap.cost_stages import (
    GPUS,
    SUSTAINED_RANGE,
    Gpu,
    StageWork,
    measured_cpu_flops,
    swap_flops,
    training_memory,
    training_work,
)
from pipeline.options import project_root

Settings = TypeVar("Settings", bound=StageConfig)

CPU = "cpu"
MEASURED_ANNOTATION = Path("benches") / "results" / "annotate.json"
CPU_ROWS = 8
"""Rows of the measured product on a CPU: about what a small batch makes of the model's tokens."""

NETWORK_OF_ROLE = {
    "reconstruction_resnet50": "3DDFA-V3 ResNet-50",
    "face_parser": "BiSeNet",
    "visible_face": "DeepLabV3+",
    "clip_vit_l14": "CLIP ViT-L/14 aesthetics",
    "eva_clip": "EVA02-CLIP-L-336",
    "pulid_flux": "PuLID IDFormer",
    "dlib_face_recognition": "dlib ResNet",
    "world_embedder": "world's embedder",
    "simswap_arcface": "SimSwap ArcFace",
    "ir_se50": "IR-SE50",
}
"""What of an annotation stage's weights is a torch module, and can be counted."""

TABLES = {"face_model", "aesthetic_head", "aesthetic_head_ava"}
"""Weights that cost nothing worth counting: a linear face model, and a head that CLIP's count includes."""

ON_THE_CPU = {"centerface", "face_landmarker", "selfie_segmenter"}
"""Networks that run on the CPU and were measured there."""


def estimate(
    graph: StageGraph,
    name: str,
    *,
    images: int,
    triplets: int | None,
    gpu: str,
    gpus: int,
    sustained: float,
) -> dict[str, Any]:
    """Everything `orchard cost` says, as one JSON object.

    `triplets` None takes the profile's own number. `gpu` is a name of `GPUS`, or "cpu" for this machine's
    processor, whose rate is measured now.
    """
    teacher = settings(graph, "teacher", TrainingConfig)
    config = teacher.base.model
    published = config.codec.kind == "autoencoder_kl"
    losses = LossNetworks(
        identity=teacher.face_encoder.network if teacher.recipe.needs_identity_network else None,
        perceptual=teacher.recipe.needs_perceptual_network,
    )
    cost = model_cost(config, losses)
    release = settings(graph, "release", ReleaseConfig)
    works = [
        *_annotation(graph, images),
        *_with_the_model(graph, cost, images, triplets or release.triplets, release.swap_pairs),
    ]
    encoders = text_encoder_costs(config.transformer.text_tokens) if published else ()
    card, rate = _rate(cost, gpu, sustained)
    memory = {
        "training": training_memory(cost, teacher.recipe, gpus),
        "swapping": _swapping_memory(cost),
        "condition_cache_gb": round(_kept_bytes(cost) / 1e9, 3),
    }
    return {
        "profile": name,
        "image_size": config.image_size,
        "tokens": cost.tokens,
        "parameters": {
            **cost.parameters,
            **{item.name: item.parameters for item in encoders},
            **_identity_parameters(graph),
        },
        "tflop": _tflop(cost, encoders),
        "by_hand": _compared(cost),
        "memory_gb": _rounded(memory),
        "gpu": {
            "name": gpu,
            "count": gpus,
            "peak_tflops": card.peak_tflops if card else None,
            "memory_gb": card.gigabytes if card else None,
            "source": card.source if card else "measured now on this machine",
            "assumed_tflops": round(rate / 1e12, 4),
            "training_fits": None if card is None else memory["training"]["together"] <= card.gigabytes,
        },
        "stages": {work.stage: _stage(work, rate, gpus) for work in works},
        "total_hours": round(sum(work.hours(rate, gpus) for work in works), 3),
        "assumptions": _assumptions(cost, gpu, gpus, sustained, losses),
        "unknown": _unknown(graph, gpu),
    }


def settings(graph: StageGraph, stage: str, kind: type[Settings]) -> Settings:
    """A stage's settings; TypeError when they are of another kind."""
    config = graph[stage].config
    if not isinstance(config, kind):
        raise TypeError(f"{stage} has settings of {type(config).__name__}, expected {kind.__name__}")
    return config


def _annotation(graph: StageGraph, images: int) -> list[StageWork]:
    """Networks over every photograph; what no torch module does is the CPU's, as the bench measured it."""
    measured = measured_annotation()
    works = []
    for stage in graph.row_stages("faces"):
        if stage.name == "latents":
            continue
        networks = [annotation_network(NETWORK_OF_ROLE[role]) for role in _counted(stage)]
        uncounted = _uncounted(stage)
        rate = measured.get(stage.name) if set(uncounted) <= ON_THE_CPU else None
        on_cpu = bool(uncounted) or not stage.weights
        names = [*(network.name for network in networks), *(f"{role} (not counted)" for role in uncounted)]
        works.append(
            StageWork(
                stage.name,
                images,
                "photograph",
                sum(network.forward.flops for network in networks),
                " + ".join(names) or "no network",
                images / rate / 3600 if on_cpu and rate else None,
            )
        )
    return works


def _counted(stage: RowStage) -> list[str]:
    return [role for role in stage.weights if role in NETWORK_OF_ROLE]


def _uncounted(stage: RowStage) -> list[str]:
    return [role for role in stage.weights if role not in NETWORK_OF_ROLE and role not in TABLES]


def _with_the_model(
    graph: StageGraph, cost: ModelCost, images: int, triplets: int, swap_pairs: int
) -> list[StageWork]:
    teacher, student = (settings(graph, name, TrainingConfig) for name in ("teacher", "student"))
    swaps = settings(graph, "swaps", SwapsConfig)
    triplet_flops, triplet_words = swap_flops(
        cost, settings(graph, "pseudo_triplets", PseudoTripletsConfig).sampling
    )
    plain_flops, plain_words = swap_flops(cost, swaps.sampling)
    inverted_flops, _ = swap_flops(cost, swaps.inversion)
    return [
        StageWork("latents", images, "photograph", 2 * cost.encode.flops, "photograph and condition"),
        training_work("teacher", cost, teacher.recipe),
        StageWork("pseudo_triplets", triplets, "triplet", triplet_flops, triplet_words),
        training_work("student", cost, student.recipe),
        StageWork(
            "swaps",
            3 * swap_pairs,
            "swap",
            (2 * plain_flops + inverted_flops) / 3,
            f"{plain_words}; a third of them inverted first",
        ),
        *_diffface(graph, swap_pairs),
    ]


def _diffface(graph: StageGraph, swap_pairs: int) -> list[StageWork]:
    """Guided swaps of all pairs, in a profile that has them."""
    if DIFFFACE_SWAPS not in graph.names:
        return []
    config = settings(graph, DIFFFACE_SWAPS, DiffFaceSwapsConfig)
    return [StageWork(DIFFFACE_SWAPS, swap_pairs, "swap", *diffface_flops(config.networks, config.settings))]


def measured_annotation() -> dict[str, float]:
    """Photographs per second of each stage on two CPU cores, from the annotation bench; empty without it."""
    path = project_root() / MEASURED_ANNOTATION
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))["photos_per_second_by_stage"]["one_stage_at_a_time"]


def _rate(cost: ModelCost, gpu: str, sustained: float) -> tuple[Gpu | None, float]:
    """The card, and the operations per second that are assumed."""
    if gpu == CPU:
        return None, measured_cpu_flops(cost.config.transformer.inner_dim, cost.tokens["all"] * CPU_ROWS)
    card = GPUS[gpu]
    return card, card.peak_tflops * 1e12 * sustained


def _swapping_memory(cost: ModelCost) -> dict[str, float]:
    """Gigabytes of one swap: weights, and the larger of an evaluation and decoding."""
    weights = sum(cost.weight_bytes().values()) / 1e9
    busiest = max(cost.forward.gigabytes, cost.decode.gigabytes)
    return {"weights": weights, "one picture": busiest, "together": weights + busiest}


def _tflop(cost: ModelCost, encoders: Sequence[NetworkCost]) -> dict[str, Any]:
    training = cost.training
    return {
        "forward": _tera(cost.forward.flops),
        "forward_with_a_quarter_of_the_text": _tera(cost.forward_short_text.flops),
        "text_tokens_then": short_text_tokens(cost.config),
        "independent_condition": _tera(cost.independent.flops),
        "independent_condition_cached": _tera(cost.cached.flops),
        "condition_once": _tera(cost.condition_once.flops),
        "train": _tera(training.plain.flops),
        "train_checkpointing": _tera(training.checkpointed.flops),
        "decode_and_losses_in_training": _tera(training.decoded.flops - training.plain.flops),
        "encode": _tera(cost.encode.flops),
        "decode": _tera(cost.decode.flops),
        "prompt": _tera(sum(item.forward.flops for item in encoders)),
    }


def _compared(cost: ModelCost) -> dict[str, Any]:
    """The usual hand calculation beside what was counted, and why they differ."""
    counted = {
        "forward": cost.forward.tflop,
        "train": cost.training.plain.tflop,
        "train_checkpointing": cost.training.checkpointed.tflop,
    }
    hand = by_hand(cost.config)
    lines = {
        name: {"counted": _tera(counted[name] * 1e12), "by_hand": _tera(hand[name] * 1e12)} for name in hand
    }
    return {
        **lines,
        "ratio": round(counted["forward"] / hand["forward"], 4),
        "why": "the hand calculation has blocks, attention and adapters; counted are also the identity's "
        "cross-attention, embedders and modulation, and not the last block's unused condition output",
    }


def _identity_parameters(graph: StageGraph) -> dict[str, int]:
    """Networks that make the identity of a photograph."""
    stage = next(stage for stage in graph.row_stages("faces") if stage.name == "identity_embedding")
    networks = [annotation_network(NETWORK_OF_ROLE[role]) for role in _counted(stage)]
    return {network.name: network.parameters for network in networks}


def _kept_bytes(cost: ModelCost) -> int:
    """Keys and values of an independent condition: two per block and token, in the base's precision."""
    sizes = cost.config.transformer
    size = 2 if cost.config.base_dtype == "bfloat16" else 4
    blocks = sizes.num_layers + sizes.num_single_layers
    return 2 * blocks * cost.config.image_tokens * sizes.inner_dim * size


def _stage(work: StageWork, rate: float, gpus: int) -> dict[str, Any]:
    return {
        "units": work.units,
        "unit": work.unit,
        "tflop_each": _tera(work.flops_each),
        "pflop": float(f"{work.flops / 1e15:.4g}"),
        "hours": float(f"{work.hours(rate, gpus):.4g}"),
        "cpu_hours_on_2_cores": None if work.cpu_hours is None else float(f"{work.cpu_hours:.3g}"),
        "note": work.note,
    }


def _assumptions(cost: ModelCost, gpu: str, gpus: int, sustained: float, losses: LossNetworks) -> list[str]:
    low, high = SUSTAINED_RANGE
    judges = [*([losses.identity] if losses.identity else []), *(["LPIPS"] if losses.perceptual else [])]
    if gpu == CPU:
        speed = "speed: a float32 matrix product of the model's own width, measured now; small models lose "
        speed += "several times as much to everything around it"
    else:
        speed = (
            f"speed: {sustained:.0%} of the dense bf16 peak, all the time; {low:.0%} to {high:.0%} is the "
        )
        speed += (
            f"usual range, which makes the hours {sustained / high:.2f} to {sustained / low:.2f} times these"
        )
    return [
        speed,
        f"{gpus} card{'s' if gpus > 1 else ''} share every stage evenly and lose nothing to each other",
        "operations: a multiply-add is two; counted on the real modules on the meta device, with the fused "
        "attention's backward pass (five products) and without elementwise work",
        f"pictures in training are judged by {' and '.join(judges) or 'nothing'}",
        "memory: weights and every activation of one row at its peak; allocator and libraries come on top, "
        "and not all parts peak at once",
        "loading, reading and writing the lake, PNG and validation take no time",
        f"annotation on the CPU: {MEASURED_ANNOTATION}, two cores, 512 px photographs, tiny profile",
        f"the base is {cost.config.base_dtype}, adapters, gradients and moments are float32",
    ]


def _unknown(graph: StageGraph, gpu: str) -> list[str]:
    lines = [
        f"{stage.name}: {', '.join(_uncounted(stage))} are ONNX or TFLite and not counted"
        for stage in graph.row_stages("faces")
        if stage.name != "latents" and _uncounted(stage)
    ]
    if gpu != CPU:
        lines.append("no step of this size was ever timed by this project on any card")
    lines.append("condition: drawn on the CPU; measured at the tiny profile's 32 px only")
    lines.append("triplet_scores: annotates every triplet once more; not in the table")
    sweep = settings(graph, "frontier", FrontierConfig).sweep
    swaps = len(sweep.methods) * len(sweep.scales)
    lines.append(
        f"frontier: {swaps} swaps of a pair, where a rendered world knows its answer; not in the table"
    )
    return lines


def _tera(flops: float) -> float:
    return float(f"{flops / 1e12:.6g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
