"""The protocol's measures of whole sets of swaps: Frechet distances to real photographs.

`fid_inception` is FID. The kit whose protocol APPLE follows has its Inception commented out and takes CLIP's
image features in its place: that is `clip_frechet` here, and never called FID, for the two differ by far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from models.aesthetics.clip_network import load_clip_tower
from models.aesthetics.network_sizes import ClipAestheticsConfig
from models.clip_inputs import clip_input
from models.faces.images import Image
from models.metrics.frechet import FeatureStatistics, frechet_distance
from models.metrics.inception import FEATURES, load_fid_inception
from models.metrics.protocol import Measure, MetricValues, ProtocolMetric, ProtocolPairs, SwapOutputs
from models.metrics.protocol_metrics import picture_tensor
from models.metrics.protocol_names import MEASURE_ROLES, MeasureName

BATCH_SIZE = 16

CLIP_VIT_L14 = ClipAestheticsConfig()
CLIP_VIT_B32 = ClipAestheticsConfig(
    patch_size=32, width=768, layers=12, heads=12, feed_forward_dim=3072, embedding_dim=512
)
"""ViT-B/32, whose 512 numbers REFace's evaluation takes."""

Extract = Callable[[Tensor], Tensor]


def feature_statistics(
    pictures: Sequence[Image], extract: Extract, dimensions: int, device: str = "cpu"
) -> FeatureStatistics:
    """Statistics of the features of pictures, RGB uint8 (H, W, 3), of any sizes.

    `extract` takes pictures (B, 3, H, W) RGB in 0..1 of one size and gives (B, `dimensions`).
    """
    statistics = FeatureStatistics(dimensions)
    with torch.inference_mode():
        for batch_B3HW in _batches(pictures, device):
            statistics.add(extract(batch_B3HW).double().cpu().numpy())
    return statistics


def _batches(pictures: Sequence[Image], device: str) -> Iterator[Tensor]:
    """Neighbours of one size together, `BATCH_SIZE` at most."""
    for start in range(0, len(pictures), BATCH_SIZE):
        rows = range(start, min(start + BATCH_SIZE, len(pictures)))
        for _, group in groupby((pictures[row] for row in rows), key=lambda picture: picture.shape):
            yield torch.cat([picture_tensor(picture, device) for picture in group])


def frechet_metric(
    name: MeasureName,
    extractor: str,
    dimensions: int,
    load: Callable[[Path, str], Extract],
) -> ProtocolMetric:
    """A Frechet distance between all swaps of a method and the reference photographs.

    It has no interval: pictures drawn twice lower the rank of a covariance, so a bootstrap of this distance
    lies above the distance itself.
    """

    (role,) = MEASURE_ROLES[name]

    def prepare(pairs: ProtocolPairs, paths: Mapping[str, Path], device: str) -> Measure:
        if min(len(pairs.reference), len(pairs.targets)) < 2:
            return lambda made: MetricValues(note="a covariance needs two pictures on each side")
        extract = load(paths[role], device)
        real = feature_statistics(pairs.reference, extract, dimensions, device)

        def measure(made: SwapOutputs) -> MetricValues:
            found = frechet_distance(feature_statistics(made.pictures, extract, dimensions, device), real)
            return MetricValues(value=found.value, note=found.warning)

        return measure

    return ProtocolMetric(
        name=name,
        extractor=extractor,
        unit="squared feature distance",
        better="down",
        needs=(role,),
        prepare=prepare,
    )


def fid_inception() -> ProtocolMetric:
    """`fid_inception`: FID as Heusel et al. (2017) define it, on the Inception of 2015-12-05."""
    return frechet_metric(
        "fid_inception",
        "Inception-v3 of 2015-12-05, pool3, 2048 numbers",
        FEATURES,
        lambda path, device: load_fid_inception(path).to(device),
    )


def clip_frechet() -> ProtocolMetric:
    """`clip_frechet`: on the features of CLIP ViT-B/32, as in REFace's kit."""
    return _clip("clip_frechet", "CLIP ViT-B/32", CLIP_VIT_B32)


def clip_frechet_l14() -> ProtocolMetric:
    """`clip_frechet_l14`: on those of the larger CLIP that scores aesthetics in the profile `flux-krea`."""
    return _clip("clip_frechet_l14", "CLIP ViT-L/14", CLIP_VIT_L14)


def _clip(name: MeasureName, network: str, config: ClipAestheticsConfig) -> ProtocolMetric:
    size = config.embedding_dim

    def load(path: Path, device: str) -> Extract:
        return clip_features(path, config, device)

    return frechet_metric(name, f"{network}, image embedding, {size} numbers", size, load)


def clip_features(path: Path, config: ClipAestheticsConfig, device: str = "cpu") -> Extract:
    """CLIP's projected image embeddings, not normalised: pictures (B, 3, H, W) in 0..1 to (B, E).

    `path` is a safetensors file, or a folder with one. Raises as `models.weight_files.load_weights`.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    tower = load_clip_tower(file, config).to(device)
    return lambda x_B3HW: tower(pixel_values=clip_input(x_B3HW, config.image_size)).image_embeds
