"""A whole orchard that runs in seconds: cheap row stages around the real release, training and evaluation.

Column names and shapes are those of the real DAG, the values are functions of the pixels alone, and pictures
are blocks of colour. So every kind of stage is there, and any two runs must agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from assets.evaluation import EvaluationConfig, evaluation_stage
from assets.previews import encode_png
from assets.prompt_embeddings import prompt_embeddings_config, prompt_embeddings_stage
from assets.release import ReleaseConfig, release_stage
from assets.stage import Input, NoConfig, RowStage, StageContext, StageGraph
from assets.student import student_stage
from assets.swap_base import one_file_base
from assets.teacher import TrainingConfig, teacher_stage
from assets.triplets_release import triplets_release_stage
from models.faces.parsing import encode_codes, pack_mask
from models.swap.config import tiny
from models.swap.training_recipe import TrainingRecipe
from resources.lake.lake import Lake
from resources.lake.pairs import PairSync, store_swap_pairs
from resources.lake.schema import Column

SIDE = 64
"""Side of a photograph, px."""

SHARD_SIZE = 6
PAIR_SHARD_SIZE = 4
LATENT = 16 * 96
"""Numbers in one latent of the tiny base: tokens x channels."""

STEPS, CHECKPOINT_INTERVAL = 7, 3
SOURCE, TARGET = "source_image_id", "target_image_id"


def paint(path: Path, seed: int) -> None:
    """Write a photograph of coloured blocks, 64 x 64, decided by the seed."""
    blocks = np.random.default_rng(seed).integers(20, 235, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)).save(path)


def write_photos(root: Path, people: int = 5, photos: int = 3) -> None:
    """Write `people` folders with `photos` pictures each, and one file that is no picture."""
    for person in range(people):
        for photo in range(photos):
            paint(root / f"p{person}" / f"{photo:02d}.png", 100 * person + photo)
    (root / "p0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")


def change_photos(root: Path) -> None:
    """Change three pictures in different shards, remove two, and add a person with four."""
    for name, seed in (("p0/01.png", 9001), ("p2/00.png", 9002), ("p3/02.png", 9003)):
        paint(root / name, seed)
    for name in ("p1/02.png", "p3/00.png"):
        (root / name).unlink()
    for photo in range(4):
        paint(root / "p7" / f"{photo:02d}.png", 700 + photo)


def pin_swap_pairs(lake: Lake, grey: int = 40) -> PairSync:
    """Pin two swaps between people 3 and 4, with grey pictures for answers."""
    rows = []
    for source, target in (("p3/01", "p4/00"), ("p4/01", "p3/02")):
        truth = encode_png(np.full((SIDE, SIDE, 3), len(rows) * 90 + grey, np.uint8))
        row = {"pair_id": f"{source}__{target}", SOURCE: source, TARGET: target, "truth": truth}
        rows.append(row)
    return store_swap_pairs(lake, rows)


def orchard() -> StageGraph:
    """All kinds of stages: rows of photographs, rows of pairs, releases, checkpoints, an evaluation."""
    photo = Input("faces", ("image",))
    base = one_file_base("tiny_base", tiny())
    latent = pa.list_(pa.float16(), LATENT)
    recipe = TrainingRecipe(
        steps=STEPS,
        batch_size=2,
        learning_rate=1e-3,
        identity_loss_weight=0.0,
        checkpoint_interval=CHECKPOINT_INTERVAL,
    )
    pair_inputs = (
        Input("release"),
        Input("identity_embedding", ("identity_embedding",), via=SOURCE),
        Input("latents", ("latent_target",), via=TARGET),
    )
    return StageGraph(
        (
            _row_stage("aesthetics", (photo,), [Column("aesthetic_score", pa.float32(), 0.01)], _score),
            _row_stage(
                "identity_embedding",
                (photo,),
                [Column("identity_embedding", pa.list_(pa.float32(), 128), 1e-3)],
                _embedding,
            ),
            _row_stage("masks", (photo,), _MASK_COLUMNS, _masks),
            _row_stage(
                "latents",
                (photo, Input("aesthetics", ("aesthetic_score",))),
                [Column("latent_target", latent, 1 / 64), Column("latent_condition", latent, 1 / 64)],
                _latents,
            ),
            release_stage(ReleaseConfig(triplets=6, swap_pairs=2, pair_shard_size=PAIR_SHARD_SIZE)),
            prompt_embeddings_stage(prompt_embeddings_config(base)),
            teacher_stage(TrainingConfig(base=base, recipe=recipe)),
            _row_stage(
                "pseudo_triplets",
                pair_inputs,
                [Column("swapped", pa.binary(), picture=True), Column("swapped_latents", latent, 1 / 64)],
                _triplet,
                table="triplets",
            ),
            triplets_release_stage(),
            student_stage(TrainingConfig(base=base, recipe=recipe.model_copy(update={"seed": 1}))),
            _row_stage(
                "swaps", pair_inputs, [Column("swap", pa.binary(), picture=True)], _swap, table="swaps"
            ),
            evaluation_stage(EvaluationConfig(size=32, codec=base.codec_source)),
        )
    )


def _row_stage(
    name: str,
    inputs: tuple[Input, ...],
    outputs: Sequence[Column],
    compute: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    table: str = "faces",
) -> RowStage:
    def load(context: StageContext):
        return lambda rows: [compute(row) for row in rows]

    return RowStage(
        name=name,
        code_version="1",
        description=f"A cheap {name}, a function of the pixels.",
        config=NoConfig(),
        inputs=inputs,
        outputs=tuple(outputs),
        load=load,
        table=table,
        batch_size=3,  # two commits for every shard, the second of which must keep the first one's rows
    )


_MASK_COLUMNS = [
    Column("parsing", pa.binary()),
    Column("visible_face", pa.binary()),
    Column("landmarks_68", pa.list_(pa.float32(), 136), 1 / 16),
    Column("iris_10", pa.list_(pa.float32(), 20), 1 / 16),
]


def _score(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"aesthetic_score": 1 + float(row["image"].mean()) / 32}


def _embedding(row: Mapping[str, Any]) -> dict[str, Any]:
    noise = np.random.default_rng(int(row["image"].astype(np.int64).sum())).standard_normal(128)
    return {"identity_embedding": (noise / np.linalg.norm(noise)).astype(np.float32)}


def _masks(row: Mapping[str, Any]) -> dict[str, Any]:
    codes = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(codes, (SIDE // 2, SIDE // 2), (20, 26), 0, 0, 360, 1, -1)
    angles = np.linspace(0, 2 * np.pi, 68)
    landmarks = np.stack([32 + 20 * np.cos(angles), 32 + 26 * np.sin(angles)], axis=1)
    for eye, middle in ((slice(36, 42), 24), (slice(42, 48), 40)):
        landmarks[eye] = np.stack([np.linspace(middle - 4, middle + 4, 6), np.full(6, 26)], axis=1)
    landmarks[[30, 48, 54]] = [(32, 38), (25, 46), (39, 46)]
    return {
        "parsing": encode_codes(codes),
        "visible_face": pack_mask(codes > 0),
        "landmarks_68": landmarks.ravel(),
        "iris_10": np.full(20, 26.0) + float(row["image"].mean()) / 256,
    }


def _latents(row: Mapping[str, Any]) -> dict[str, Any]:
    blocks = cv2.resize(row["image"], (32, 16), interpolation=cv2.INTER_AREA).ravel() / 127.5 - 1
    return {
        "latent_target": blocks.astype(np.float16),
        "latent_condition": (blocks * row["aesthetic_score"] / 10).astype(np.float16),
    }


def _mixture(row: Mapping[str, Any]) -> np.ndarray:
    return row[f"{TARGET}.latent_target"].astype(np.float32) * row[f"{SOURCE}.identity_embedding"][0]


def _triplet(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"swapped": _picture(row), "swapped_latents": _mixture(row).astype(np.float16)}


def _swap(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"swap": _picture(row)}


def _picture(row: Mapping[str, Any]) -> bytes:
    small = np.clip(_mixture(row) * 500 + 128, 0, 255).astype(np.uint8).reshape(16, 32, 3)
    return encode_png(cv2.resize(small, (32, 32), interpolation=cv2.INTER_NEAREST))
