"""The protocol's measures of single swaps: whose face it is, and what of the target it kept.

Identity is judged by two encoders at least, one of which took no part in training. Pose and expression come
from whatever annotated the photographs; the published tables take HopeNet and Deep3DFaceRecon instead, so
values compare between methods here, and not with those tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.faces.images import Image, Points
from models.faces.reconstruction.coefficients import split_coefficients
from models.identity.arcface_alignment import arcface_points_from_68
from models.identity.loss_networks import FaceEncoderConfig
from models.identity.sface import SFaceEmbedder
from models.metrics.attributes import (
    expression_coefficient_difference,
    expression_mesh_difference,
    pose_difference,
)
from models.metrics.gaze import gaze_difference
from models.metrics.identity import identity_similarity
from models.metrics.lpips import SMALLEST_SIDE, load_lpips
from models.metrics.protocol import (
    FaceReading,
    Measure,
    MetricValues,
    ProtocolMetric,
    ProtocolPairs,
    SwapOutputs,
)
from models.metrics.protocol_names import MEASURE_ROLES, SFACE, JudgeName, judge_role
from models.metrics.retrieval import retrieval_ranks
from models.swap.identity_crop import configured_face_encoder

TOP = (1, 5)
BATCH_SIZE = 32


class FaceJudge(Protocol):
    """Embeds one face of each picture."""

    def __call__(self, pictures: Sequence[Image], landmarks: Sequence[Points]) -> NDArray[np.float32]:
        """Pictures RGB uint8 (H, W, 3) and their 68 landmarks (68, 2) px to embeddings (N, D)."""
        ...


def open_judge(judge: JudgeName, path: Path, device: str) -> FaceJudge:
    """Load a judge; faces are brought to its own five points. Raises as the network's own loader."""
    if judge == SFACE:
        sface = SFaceEmbedder(path)
        return lambda pictures, landmarks: sface.embed(
            pictures, [arcface_points_from_68(points) for points in landmarks]
        )
    encoder = configured_face_encoder(FaceEncoderConfig(network=judge), path, device)
    five_points = encoder.config.facts.five_points

    def crop(picture: Image, landmarks: Points) -> torch.Tensor:
        points = torch.from_numpy(five_points(np.asarray(landmarks, np.float32)))[None]
        return encoder.crop(picture_tensor(picture, device), points)

    def embed(pictures: Sequence[Image], landmarks: Sequence[Points]) -> NDArray[np.float32]:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH_SIZE):
                rows = range(start, min(start + BATCH_SIZE, len(pictures)))
                crops = torch.cat([crop(pictures[row], landmarks[row]) for row in rows])
                parts.append(encoder.network(crops).cpu().numpy())
        return np.concatenate(parts)

    return embed


def picture_tensor(picture: Image, device: str) -> torch.Tensor:
    """A picture RGB uint8 (H, W, 3) as (1, 3, H, W) float32 in 0..1."""
    # a copy: decoded photographs may be read-only, and torch warns of that
    pixels_HW3 = torch.from_numpy(np.array(picture, order="C")).to(device)
    return pixels_HW3.permute(2, 0, 1)[None].float() / 255


class _Judged:
    """One judge for several metrics: opened once, and each method's pictures are embedded once."""

    def __init__(self, judge: JudgeName) -> None:
        self.judge: JudgeName = judge
        self._open: FaceJudge | None = None
        self._sources: tuple[ProtocolPairs, NDArray[np.float32]] | None = None
        self._outputs: list[tuple[SwapOutputs, NDArray[np.float32]]] = []

    def prepare(self, pairs: ProtocolPairs, paths: Mapping[str, Path], device: str) -> NDArray[np.float32]:
        """Embeddings (M, D) of the sources."""
        if self._open is None:
            self._open = open_judge(self.judge, paths[judge_role(self.judge)], device)
        if self._sources is None or self._sources[0] is not pairs:
            self._sources = (pairs, self._open(pairs.sources, pairs.source_landmarks))
            self._outputs.clear()
        return self._sources[1]

    def outputs(self, made: SwapOutputs, pairs: ProtocolPairs) -> NDArray[np.float32]:
        """Embeddings (N, D) of the swaps, cut out where the target's face is."""
        for known, embeddings in self._outputs:
            if known is made:
                return embeddings
        assert self._open is not None  # prepared before
        self._outputs.append((made, self._open(made.pictures, pairs.target_landmarks)))
        return self._outputs[-1][1]


def identity_metrics(judge: JudgeName, *, used_in_training: bool) -> tuple[ProtocolMetric, ...]:
    """`id_similarity_<judge>` and `top_1_<judge>`, `top_5_<judge>` of one encoder.

    A swap is cut out at its target's landmarks, so that one whose face nobody finds is judged like any other.
    Similarity is the cosine with the pair's own source photograph. Retrieval looks among all source
    photographs of the pairs.
    """
    judged = _Judged(judge)
    shared: dict[str, Any] = {
        "extractor": f"{judge}, faces aligned by five points",
        "better": "up",
        "needs": (judge_role(judge),),
        "used_in_training": used_in_training,
    }

    def similarity(pairs: ProtocolPairs, paths: Mapping[str, Path], device: str) -> Measure:
        sources = judged.prepare(pairs, paths, device)[pairs.source_of]
        return lambda made: MetricValues(identity_similarity(judged.outputs(made, pairs), sources))

    def top(rank: int) -> Callable[[ProtocolPairs, Mapping[str, Path], str], Measure]:
        def prepare(pairs: ProtocolPairs, paths: Mapping[str, Path], device: str) -> Measure:
            people = list(pairs.source_people)
            if len(set(people)) <= rank:
                note = f"the sources are {len(set(people))} people, so rank {rank} or better is certain"
                return lambda made: MetricValues(note=note)
            gallery = judged.prepare(pairs, paths, device)
            wanted = [people[source] for source in pairs.source_of]
            note = f"among {len(people)} photographs of {len(set(people))} people"

            def measure(made: SwapOutputs) -> MetricValues:
                ranks = retrieval_ranks(judged.outputs(made, pairs), wanted, gallery, people)
                return MetricValues((ranks <= rank).astype(np.float64), note=note)

            return measure

        return prepare

    return (
        ProtocolMetric(name=f"id_similarity_{judge}", unit="cosine", prepare=similarity, **shared),
        *(
            ProtocolMetric(name=f"top_{rank}_{judge}", unit="share", prepare=top(rank), **shared)
            for rank in TOP
        ),
    )


Difference = Callable[[FaceReading, FaceReading], float]


def _kept(difference: Difference) -> Callable[[ProtocolPairs, Mapping[str, Path], str], Measure]:
    """Difference between what was read in the swap and in its target; NaN where no face was found."""

    def prepare(pairs: ProtocolPairs, paths: Mapping[str, Path], device: str) -> Measure:
        def measure(made: SwapOutputs) -> MetricValues:
            both = zip(made.faces, pairs.target_faces, strict=True)
            return MetricValues(
                np.array([np.nan if mine is None else difference(mine, theirs) for mine, theirs in both])
            )

        return measure

    return prepare


def attribute_metrics(
    annotator: str, needs: tuple[str, ...], *, coefficients: bool = False
) -> tuple[ProtocolMetric, ...]:
    """`pose`, `expression` and `gaze` of the target, by what annotated the photographs.

    Args:
        annotator: its name.
        needs: weight roles of its files.
        coefficients: whether it reads a morphable model, whose expression coefficients are compared then;
            else lips, lids and brows of the mesh are, with the pose taken out.
    """
    expression = _coefficient_difference if coefficients else _mesh_difference
    unit = "distance of 64 coefficients" if coefficients else "inter-ocular distances"

    def kept(name: str, what: str, unit: str, difference: Difference) -> ProtocolMetric:
        return ProtocolMetric(
            name=name,
            extractor=f"{annotator}: {what}",
            unit=unit,
            better="down",
            needs=needs,
            prepare=_kept(difference),
        )

    said = "expression coefficients" if coefficients else "lips, lids and brows of the mesh"
    return (
        kept("pose", "yaw, pitch, roll", "degrees", _pose_difference),
        kept("expression", said, unit, expression),
        kept("gaze", "iris between the corners of the eye", "eye widths", _gaze_difference),
    )


def _pose_difference(mine: FaceReading, theirs: FaceReading) -> float:
    return float(pose_difference(mine.pose_3[None], theirs.pose_3[None])[0])


def _mesh_difference(mine: FaceReading, theirs: FaceReading) -> float:
    return float(expression_mesh_difference(mine.mesh_478x3[None], theirs.mesh_478x3[None])[0])


def _gaze_difference(mine: FaceReading, theirs: FaceReading) -> float:
    return float(gaze_difference(mine.mesh_478x3[None], theirs.mesh_478x3[None])[0])


def _coefficient_difference(mine: FaceReading, theirs: FaceReading) -> float:
    if mine.coefficients_257 is None or theirs.coefficients_257 is None:
        raise ValueError("a face was read without the coefficients of a morphable model")
    both = torch.from_numpy(np.stack([mine.coefficients_257, theirs.coefficients_257]))
    first, second = split_coefficients(both).expression_B64
    return float(expression_coefficient_difference(first[None], second[None])[0])


def lpips_metric() -> ProtocolMetric:
    """`lpips`: how different a swap looks from its target. It must differ, but not by more than others."""

    def prepare(pairs: ProtocolPairs, paths: Mapping[str, Path], device: str) -> Measure:
        network = load_lpips(*(paths[role] for role in MEASURE_ROLES["lpips"])).to(device)

        def distance(made: Image, target: Image) -> float:
            if made.shape != target.shape:
                raise ValueError(f"a swap of {made.shape} has a target of {target.shape}: bring both to one")
            pictures = [picture_tensor(_large_enough(image), device) * 2 - 1 for image in (made, target)]
            return float(network(*pictures)[0])

        def measure(made: SwapOutputs) -> MetricValues:
            both = zip(made.pictures, pairs.targets, strict=True)
            with torch.inference_mode():
                return MetricValues(np.array([distance(*pictures) for pictures in both]))

        return measure

    return ProtocolMetric(
        name="lpips",
        extractor="VGG16, LPIPS 0.1, swap against target",
        unit="LPIPS",
        better="down",
        needs=MEASURE_ROLES["lpips"],
        prepare=prepare,
    )


def _large_enough(picture: Image) -> Image:
    height, width = picture.shape[:2]
    if min(height, width) >= SMALLEST_SIDE:
        return picture
    scale = SMALLEST_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
