"""Named runs: a profile fixes sizes, weights and settings of every stage. It never changes code."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from assets.aesthetics import aesthetics_stage
from assets.aesthetics_clip import ClipAestheticsStageConfig, aesthetics_clip_stage
from assets.diffface_config import DiffFaceSwapsConfig
from assets.frontier_config import SweepConfig
from assets.identity_pulid import PulidConfig, identity_pulid_stage
from assets.identity_reference import IdentityReferenceConfig, identity_reference_stage
from assets.identity_sface import identity_sface_stage
from assets.identity_world import identity_world_stage
from assets.iris import iris_stage
from assets.landmarks import LandmarksConfig, landmarks_stage
from assets.landmarks_reconstruction import ReconstructionConfig, landmarks_reconstruction_stage
from assets.masks import masks_stage
from assets.masks_networks import NetworkMasksConfig, masks_networks_stage
from assets.release import ReleaseConfig
from assets.source_identity import source_identity_stage
from assets.stage import RowStage, StageGraph
from assets.swap_base import BaseConfig, one_file_base
from models.aesthetics.clip_aesthetics import TRAINING_THRESHOLD
from models.diffface.experts.weights import ExpertWeights
from models.diffface.settings import DiffFaceSettings
from models.faces.condition import PIXEL_CONDITION, ConditionRecipe
from models.identity.loss_networks import FaceEncoderConfig
from models.swap import config as swap_models
from models.swap.constants import PSEUDO_TRIPLETS, STUDENT_STEPS
from models.swap.sampling_config import SamplingConfig
from models.swap.training_recipe import TrainingRecipe
from pipeline.graph import BatchSizes, Parts, build_graph
from pipeline.recipes import Recipe, as_student, supervised_by_truth, with_ablations
from resources.compute.demand import StageResources
from resources.lake.lake import Lake

DEFAULT_PROFILE = "tiny"

EVALUATION_PAIRS = 1000
"""Pairs that APPLE swaps for its tables."""

FULL_SIZE_SWEEP_PAIRS = 32
"""Pairs of a frontier at full size: each is swapped 30 times."""

FULL_SIZE_PAIR_SHARD = 4096
"""Pairs per shard at full size, as many as photographs."""


FULL_SIZE = BatchSizes(latents=8, pseudo_triplets=4, swaps=4)
"""For FLUX at 512 px: 2,560 tokens of a row fill a GPU, and a killed run loses few rows of minutes each."""


_ANNOTATION = StageResources(num_gpus=0.5, num_cpus=4)
_WHOLE_GPU = StageResources(num_gpus=1, num_cpus=2)

FULL_SIZE_RESOURCES = {
    # what reads photographs asks for the same throughout, so that one process decodes each of them once
    **dict.fromkeys(("landmarks", "iris", "masks", "aesthetics", "identity_embedding"), _ANNOTATION),
    **dict.fromkeys(("source_identity", "identity_reference", "condition", "latents"), _ANNOTATION),
    "triplet_scores": _ANNOTATION,
    **dict.fromkeys(("pseudo_triplets", "swaps", "diffface_swaps"), _WHOLE_GPU),
}
"""Processes on a Ray cluster: two that annotate share a GPU, FLUX and DiffFace have one to themselves."""


@dataclass(frozen=True)
class Profile:
    """A named run."""

    name: str
    description: str
    parts: Callable[[], Parts]

    def graph(self, recipes: Collection[str] = ()) -> StageGraph:
        """All stages of this profile's default recipe and of those named, upstream first."""
        return build_graph(self.parts(), recipes)

    def graph_of(self, lake: Lake) -> StageGraph:
        """All stages of the default recipe and of the others that live in a lake."""
        own = {recipe.name for recipe in self.parts().recipes}
        return self.graph(own.intersection(lake.recipes()))

    def weights(self) -> list[str]:
        """Roles of all model files that its stages use, sorted."""
        return sorted({role for stage in self.graph().stages for role in stage.weights})


def annotation_on_the_cpu() -> tuple[RowStage, ...]:
    """Real face models from packages: mesh landmarks, mesh parsing, a quality score; our own for identity.

    dlib's network takes no part: it judges what was made.
    """
    return (
        landmarks_stage(LandmarksConfig()),
        iris_stage(),
        masks_stage(),
        aesthetics_stage(),
        identity_world_stage(),
    )


def annotation_of_the_paper() -> tuple[RowStage, ...]:
    """What APPLE annotates with: 3DDFA-V3, BiSeNet, DeepLabV3+, CLIP's score, ArcFace and PuLID's tokens.

    It trains on masked sources and swaps with unmasked ones, and holds its identity loss to a network of its
    own.
    """
    return (
        landmarks_reconstruction_stage(ReconstructionConfig()),
        iris_stage(),
        masks_networks_stage(NetworkMasksConfig()),
        aesthetics_clip_stage(ClipAestheticsStageConfig()),
        identity_pulid_stage(PulidConfig()),
        source_identity_stage(PulidConfig()),
        identity_reference_stage(IdentityReferenceConfig(frame_size=swap_models.flux_krea().image_size)),
    )


def permissive_annotation() -> tuple[RowStage, ...]:
    """Parts whose licences allow commercial use: those of the CPU profiles, with SFace for identity."""
    return (
        landmarks_stage(LandmarksConfig()),
        iris_stage(),
        masks_stage(),
        aesthetics_stage(),
        identity_sface_stage(),
    )


def tiny() -> Parts:
    """Our own small FLUX at 32 px, real face models from packages: minutes on a laptop's CPU."""
    # The base swaps already, so a teacher is to forget little: rank-1 of 20 on new people was .63 before it
    # learnt, .60 after 120 steps at 1e-4 and .54 after as many at 5e-4.
    teacher = TrainingRecipe(
        steps=60,
        batch_size=32,
        learning_rate=1e-4,
        schedule="cosine",
        warmup_steps=10,
        # as in the paper flow matching comes first, and the identity loss for the last part
        identity_loss_start=50,
        lpips_weight=0.0,
        checkpoint_interval=30,
        validation_interval=60,
    )
    # A student learns what to take from a whole photograph, most of it at the highest noise.
    student = as_student(
        teacher,
        steps=480,
        learning_rate=2e-3,
        timestep_shift=8.0,
        identity_loss_start=400,
        checkpoint_interval=120,
        validation_interval=240,
    )
    recipe = Recipe(
        name="baseline",
        description="APPLE's recipe at 32 px, cut to minutes.",
        condition=PIXEL_CONDITION,
        teacher=teacher,
        student=student,
        face_encoder=FaceEncoderConfig(network="world"),
        # at 1 the tiny base hardly shows the source's identity; its model card has the figures
        sampling=SamplingConfig(steps=8, id_guidance_scale=6.0),
        # at 4 one in four inverted swaps is nearer to the target than to the source, at 8 one in six
        inverted_id_guidance_scale=8.0,
        # 48 pairs by six methods take half a minute
        sweep=SweepConfig(scales=(1.0, 3.0, 6.0), pairs=48),
        release=ReleaseConfig(triplets=480, swap_pairs=48, pair_shard_size=192),
    )
    return Parts(
        annotation_on_the_cpu(),
        one_file_base("tiny_base", swap_models.tiny()),
        (*with_ablations(recipe), supervised_by_truth(recipe)),
        judges=("world", "dlib"),
        diffface=DiffFaceSwapsConfig(
            networks="world",
            size=swap_models.tiny().image_size,
            # a quarter of the published steps: a swap takes a second. Experts that hold on to the target
            # weigh a third: on 48 pairs rank-1 of 20 was .35 (leak .35), and .27 (.58) at published weights
            settings=DiffFaceSettings(
                batch_size=16,
                timestep_respacing="24",
                skip_timesteps=4,
                masking_threshold=7,
                expert_weights=ExpertWeights(parsing=60, gaze=60, pixel=10, gaze_window=(2, 12)),
                aug_num=1,
                iterations_num=1,
            ),
        ),
    )


def smoke() -> Parts:
    """The same lines in seconds: a handful of steps. For tests; its pictures mean nothing."""
    training = TrainingRecipe(
        steps=6,
        batch_size=4,
        learning_rate=1e-3,
        identity_loss_start=3,
        lpips_weight=0.0,
        checkpoint_interval=2,
        validation_interval=3,
        validation_images=2,
    )
    recipe = Recipe(
        name="baseline",
        description="APPLE's recipe in a handful of steps.",
        condition=PIXEL_CONDITION,
        teacher=training,
        student=as_student(training),
        face_encoder=FaceEncoderConfig(network="world"),
        sampling=SamplingConfig(steps=2),
        sweep=SweepConfig(scales=(1.0, 4.0), inversions=("noID_trgCond", "trgID_noCond"), pictures=1),
        release=ReleaseConfig(triplets=6, swap_pairs=4, pair_shard_size=4),
    )
    base = swap_models.tiny()
    return Parts(
        annotation_on_the_cpu(),
        one_file_base("tiny_base", base),
        (*with_ablations(recipe), supervised_by_truth(recipe)),
        judges=("world", "dlib"),
        diffface=DiffFaceSwapsConfig(
            networks="world",
            size=base.image_size,
            settings=DiffFaceSettings(
                batch_size=4,
                timestep_respacing="4",
                skip_timesteps=1,
                masking_threshold=1,
                aug_num=2,
                iterations_num=1,
            ),
        ),
    )


def flux_krea() -> Parts:
    """The paper: FLUX.1-Krea-dev with PuLID at 512 px, trained on photographs that score above 5.1."""
    teacher = TrainingRecipe(gradient_checkpointing=True, micro_batch_size=1)
    recipe = Recipe(
        name="baseline_vgg_0.35",
        description="The paper's teacher (losses where t <= 0.35) and its student (t <= 0.5).",
        condition=ConditionRecipe(),
        teacher=teacher,
        student=as_student(teacher, steps=STUDENT_STEPS, identity_loss_start=0, lpips_start=0),
        sampling=SamplingConfig(),
        sweep=SweepConfig(pairs=FULL_SIZE_SWEEP_PAIRS),
        release=ReleaseConfig(
            triplets=PSEUDO_TRIPLETS,
            swap_pairs=EVALUATION_PAIRS,
            pair_shard_size=FULL_SIZE_PAIR_SHARD,
            min_aesthetic_score=TRAINING_THRESHOLD,
        ),
    )
    base = BaseConfig(
        transformer="flux_krea",
        codec="flux_krea_codec",
        text="flux_krea_text",
        identity="pulid_flux",
        model=swap_models.flux_krea(),
    )
    judges = ("simswap_arcface", "ir_se50", "dlib")
    diffface = DiffFaceSwapsConfig(
        networks="published",
        identity="identity_reference",  # the denoiser takes SimSwap's ArcFace, which the loss does too
        size=base.model.image_size,
        settings=DiffFaceSettings(batch_size=4),
    )
    return Parts(
        annotation_of_the_paper(),
        base,
        with_ablations(recipe),
        FULL_SIZE,
        judges,
        diffface,
        FULL_SIZE_RESOURCES,
    )


def flux_schnell() -> Parts:
    """The paper's recipe on FLUX.1-schnell, without any weight whose licence forbids commercial use."""
    # every published network for the identity loss forbids commercial use
    teacher = TrainingRecipe(gradient_checkpointing=True, micro_batch_size=1, identity_loss_weight=0.0)
    recipe = Recipe(
        name="permissive",
        description="The paper's recipe without the losses whose networks forbid commercial use.",
        condition=ConditionRecipe(),
        teacher=teacher,
        student=as_student(teacher, steps=STUDENT_STEPS, lpips_start=0),
        # schnell's schedule has no shift that depends on the resolution
        sampling=SamplingConfig(shift=False),
        sweep=SweepConfig(pairs=FULL_SIZE_SWEEP_PAIRS),
        # no floor: 5.1 is a score of the paper's scorer, and this profile's is another
        release=ReleaseConfig(
            triplets=PSEUDO_TRIPLETS, swap_pairs=EVALUATION_PAIRS, pair_shard_size=FULL_SIZE_PAIR_SHARD
        ),
    )
    base = BaseConfig(
        transformer="flux_schnell",
        codec="flux_schnell_codec",
        text="flux_schnell_text",
        identity="schnell_identity",
        model=swap_models.flux_schnell(),
    )
    return Parts(
        permissive_annotation(),
        base,
        with_ablations(recipe),
        FULL_SIZE,
        ("sface", "dlib"),
        resources=FULL_SIZE_RESOURCES,
    )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("tiny", "Our small FLUX at 32 px on real annotation: laptop CPU, minutes.", tiny),
        Profile("smoke", "The same stages with a few steps each: for tests, seconds.", smoke),
        Profile("flux-krea", "The paper: published networks, FLUX.1-Krea-dev, 512 px.", flux_krea),
        Profile("flux-schnell", "Permissive parts only, FLUX.1-schnell, 512 px.", flux_schnell),
    )
}
"""Every profile by name."""


def profile(name: str) -> Profile:
    """The profile of that name. Raises KeyError that lists the names."""
    if name not in PROFILES:
        raise KeyError(f"no profile {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]
