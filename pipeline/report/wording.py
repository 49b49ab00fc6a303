"""The report's words for metrics, methods and consents: one place, so that table and legend agree."""

from __future__ import annotations

from dataclasses import dataclass

from assets.evaluation import CODEC_CEILING, COPY_TARGET


@dataclass(frozen=True)
class Metric:
    """One metric: how it is called, in which unit, which direction is better, and what it means."""

    key: str
    name: str
    unit: str
    better: str
    meaning: str
    digits: int = 2

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
        "psnr",
        "PSNR",
        "dB",
        "higher is better",
        "likeness of the whole picture to the exact answer; doing nothing scores well too",
        1,
    ),
    Metric(
        "face_psnr",
        "face PSNR",
        "dB",
        "higher is better",
        "the same over the face alone, where a swap has to change something",
        1,
    ),
    Metric(
        "swap_progress",
        "swap progress",
        "0 to 1",
        "1 is best",
        "how far the picture went from the target (0) towards the exact answer (1); above 1 it went too far. "
        "Blur can raise it, so read it beside the face PSNR",
    ),
    Metric(
        "identity_leak",
        "identity leak",
        "share of pairs",
        "lower is better",
        "how often a face network still finds the target in the swap rather than the exact answer",
    ),
    Metric(
        "light_error",
        "light error",
        "grey levels of 255",
        "lower is better",
        "difference of light and shade: both pictures averaged down to 8 by 8 cells",
        1,
    ),
    Metric(
        "background_error",
        "background error",
        "grey levels of 255",
        "lower is better",
        "mean difference outside the face, where a swap should change nothing",
        1,
    ),
)

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
)

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
    """The method of that key; one that nobody has described keeps its key as its name."""
    known = {item.key: item for item in METHODS}
    return known.get(key, Method(key, key, "not described"))


def in_order(keys: set[str], known: tuple[Metric, ...] | tuple[Method, ...]) -> list[str]:
    """Keys in the report's order, ones that nobody has described last."""
    order = [item.key for item in known]
    return [key for key in order if key in keys] + sorted(keys - set(order))
