"""The report's words for metrics, methods and consents: one place, so that tables and legends agree."""

from __future__ import annotations

from dataclasses import dataclass

from assets.evaluation import CODEC_CEILING, COPY_TARGET

LEVELS = "levels of 255"


@dataclass(frozen=True)
class Metric:
    """One metric: how it is called, in which unit, which direction is better, and what it means."""

    key: str
    name: str
    unit: str
    better: str
    meaning: str
    digits: int = 2
    group: str = "attributes"

    def text(self, value: float) -> str:
        """A value as the table shows it; a rounded zero has no sign."""
        return f"{value:z.{self.digits}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Method:
    """One row of the metric table. A `reference` is no model: it shows what the numbers are worth."""

    key: str
    name: str
    meaning: str
    reference: bool = False


METRICS = (
    Metric(
        "rank_1_of_20",
        "found among 20",
        "share of pairs",
        "higher is better",
        "how often the source is the nearest of 20 people, each rendered in the target's pose, light and "
        "make-up; chance is 0.05",
        group="identity",
    ),
    Metric(
        "leak",
        "leak",
        "share of pairs",
        "lower is better",
        "how often the face is still nearer to the target's own photograph than to the exact answer",
        group="identity",
    ),
    Metric(
        "id_similarity_world",
        "likeness, world's network",
        "cosine",
        "higher is better",
        "likeness to the exact answer by the rendered world's own face network",
        group="identity",
    ),
    Metric(
        "id_leak_world",
        "leak, world's network",
        "share of pairs",
        "lower is better",
        "how often that network still finds the target in the swap rather than the exact answer",
        group="identity",
    ),
    Metric(
        "id_distance_dlib",
        "distance, dlib",
        "0 is the same",
        "lower is better",
        "distance to the exact answer by dlib's face network; below 0.6 it says one person, and it tells "
        "rendered people apart but poorly",
        group="identity",
    ),
    Metric(
        "id_leak_dlib",
        "leak, dlib",
        "share of pairs",
        "lower is better",
        "how often dlib's network still finds the target in the swap rather than the exact answer",
        group="identity",
    ),
    Metric(
        "face_psnr",
        "face PSNR",
        "dB",
        "higher is better",
        "likeness of the face alone to the exact answer: where a swap has to change something",
        1,
        group="picture",
    ),
    Metric(
        "psnr",
        "PSNR",
        "dB",
        "higher is better",
        "the same over the whole picture; doing nothing scores well too",
        1,
        group="picture",
    ),
    Metric(
        "swap_progress",
        "swap progress",
        "0 to 1",
        "1 is best",
        "how far the picture went from the target (0) towards the exact answer (1); above 1 it went too far. "
        "Blur can raise it, so read it beside the face PSNR",
        group="picture",
    ),
    Metric(
        "light_error",
        "light error",
        LEVELS,
        "lower is better",
        "difference of light and shade, averaged over cells in which features cancel",
        1,
    ),
    Metric(
        "lip_error",
        "lip error",
        LEVELS,
        "lower is better",
        "difference of the lips' mean colour: lipstick is the target's",
        1,
    ),
    Metric(
        "makeup_error",
        "make-up error",
        LEVELS,
        "lower is better",
        "difference of colour where the exact answer wears eye shadow or blusher; other pairs are left out",
        1,
    ),
    Metric(
        "glasses_error",
        "glasses error",
        LEVELS,
        "lower is better",
        "difference on the frame of the glasses; pairs without are left out",
        1,
    ),
    Metric(
        "gaze_error",
        "gaze error",
        LEVELS,
        "lower is better",
        "difference between the lids, most of it where somebody looks",
        1,
    ),
    Metric("pose_error", "pose error", "degrees", "lower is better", "angle between the heads", 1),
    Metric(
        "expression_error",
        "expression error",
        "eye distances",
        "lower is better",
        "difference of the face meshes once pose is taken away",
        3,
    ),
    Metric(
        "background_error",
        "background error",
        LEVELS,
        "lower is better",
        "mean difference outside the face, where a swap should change nothing",
        1,
    ),
)

GROUPS = {
    "identity": "Whose face it is",
    "picture": "Likeness to the exact answer",
    "attributes": "What should have stayed the target's",
}
"""Metrics are shown in a table for each of these."""

METHODS = (
    Method(COPY_TARGET, "copy target", "the target itself, untouched: what doing nothing scores", True),
    Method(
        CODEC_CEILING,
        "codec ceiling",
        "the exact answer through the model's own codec: the most its pictures can reach",
        True,
    ),
    Method("teacher", "teacher", "sampled from noise, guided by the condition image"),
    Method("teacher_inversion", "teacher + inversion", "sampled from the target's inverted noise"),
    Method("student", "student", "sampled from noise, guided by the target picture; no landmarks, no masks"),
    Method(
        "mesh_warp", "mesh warp", "the source's face warped by landmarks and blended in; nothing is learnt"
    ),
    Method("diffface", "DiffFace", "denoised from the noised target, guided by identity and layout experts"),
)

INVERSIONS = {
    "noID_noCond": "inverted without identity and without the condition image",
    "noID_trgCond": "inverted with the target's condition image alone: the paper's choice",
    "trgID_noCond": "inverted with the target's identity alone",
    "trgID_trgCond": "inverted with the target's identity and condition image",
}
"""What a model sees while it inverts the target."""

CONSENTS = {
    "unknown": "nobody said on what basis they may be used: annotated, never trained on or swapped",
    "synthetic": "rendered faces of nobody",
    "subject_consented": "the person shown has agreed to training and swapping",
    "dataset_licence": "a research data set whose licence permits this use",
    "annotation_only": "may be detected and annotated, never trained on or swapped",
}


def metric(key: str) -> Metric:
    """The metric of that key; one that nobody has described keeps its key as its name."""
    known = {item.key: item for item in METRICS}
    return known.get(key, Metric(key, key, "", "", "not described"))


def method(key: str) -> Method:
    """The method of that key; one that nobody has described keeps its key as its name.

    A key with a colon names an inversion by what it sees: `teacher_inversion:noID_trgCond`.
    """
    known = {item.key: item for item in METHODS}
    name, _, inversion = key.partition(":")
    if inversion and name in known:
        return Method(
            key, f"{known[name].name}, {inversion}", f"{known[name].meaning}; {INVERSIONS[inversion]}"
        )
    return known.get(key, Method(key, key, "not described"))


def in_order(keys: set[str], known: tuple[Metric, ...] | tuple[Method, ...]) -> list[str]:
    """Keys in the report's order, inversions behind their method, ones that nobody has described last."""
    order = {item.key: place for place, item in enumerate(known)}
    return sorted(keys, key=lambda key: (order.get(key.partition(":")[0], len(order)), key))
