"""The questions of the leaderboard, answered from the values: methods at equal identity, paired.

A verdict is computed, never written down: "yes" where the whole 95 % interval of the difference in attribute
error lies below 0, "no" where it lies above, "not shown" otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.frontier_config import CONDITIONINGS, INVERTED, STUDENT, TEACHER
from assets.frontier_summary import ATTRIBUTES, AXES
from benches.leaderboard.plan import BASE, BASELINE, INPAINTING, LONG, SHAPED, SUPERVISED
from benches.leaderboard.results import OVERALL, Comparison, Difference, overall, rounded
from benches.leaderboard.values import Key
from models.metrics.frontier import (
    Frontier,
    MatchedMethod,
    compare_at_matched_identity,
    resampled_weights,
)

Pooled = Mapping[Key, tuple[tuple[int, ...], Mapping[str, NDArray[np.float64]]]]
YES, NO, OPEN = "yes", "no", "not shown"
ERRORS = (OVERALL, *ATTRIBUTES, "leak")
"""What is compared at equal identity; the first decides."""

CHANCE = {"rank_1_of_20": 1 / 20}
"""What a method that shows nobody in particular reaches; below it, equal identity is no identity."""


@dataclass(frozen=True)
class Question:
    """Whether a method keeps attributes better than another at equal identity."""

    key: str
    text: str
    method: str
    reference: str


_PLAIN = f"{BASELINE}/{TEACHER}"
QUESTIONS = (
    Question(
        "deblurring",
        "Does deblurring keep the attributes better than inpainting (teachers)?",
        _PLAIN,
        f"{INPAINTING}/{TEACHER}",
    ),
    Question(
        "deblurring_student",
        "Does deblurring keep the attributes better than inpainting (students)?",
        f"{BASELINE}/{STUDENT}",
        f"{INPAINTING}/{STUDENT}",
    ),
    *(
        Question(
            f"inversion_{conditioning}",
            f"Does inversion ({conditioning}) keep the attributes better than the teacher alone?",
            f"{BASELINE}/{INVERTED}:{conditioning}",
            _PLAIN,
        )
        for conditioning in CONDITIONINGS
    ),
    Question("student", "Does the student beat its teacher?", f"{BASELINE}/{STUDENT}", _PLAIN),
    Question(
        "student_equal_compute",
        "Does the student beat a teacher that was trained with as much compute?",
        f"{BASELINE}/{STUDENT}",
        f"{LONG}/{TEACHER}",
    ),
    Question("adapters", "Does the teacher beat the base that it starts from?", _PLAIN, f"{BASE}/{BASE}"),
    Question(
        "source_shape",
        "Do landmarks in the source's shape beat the target's?",
        f"{SHAPED}/{TEACHER}",
        _PLAIN,
    ),
    Question(
        "ceiling",
        "Does supervision by exact swaps beat the student?",
        f"{SUPERVISED}/{TEACHER}",
        f"{BASELINE}/{STUDENT}",
    ),
)


def answers(rows: Pooled, units: Mapping[str, float], seed: int = 0) -> tuple[Comparison, ...]:
    """Every question on every measure of identity that was measured."""
    labels = {key.label for key in rows if key.scale is not None}
    found = []
    for question in QUESTIONS:
        method, reference = _label(question.method), _label(question.reference)
        if not {method, reference} <= labels:
            continue
        runs = {
            len(values[1][OVERALL_SOURCE]) for key, values in rows.items() if key.label in (method, reference)
        }
        for axis in AXES:
            pair = {name: _frontier(rows, name, axis, units, max(runs)) for name in (method, reference)}
            found.append(_answer(question, axis, pair, method, reference, max(runs), seed))
    return tuple(found)


OVERALL_SOURCE = ATTRIBUTES[0]


def _label(text: str) -> str:
    name, _, method = text.partition("/")
    return name if name == method else text


def _frontier(rows: Pooled, label: str, axis: str, units: Mapping[str, float], runs: int) -> Frontier:
    """A method's sweep over all seeds, (K, S x N); what nothing was trained for stands in every seed."""
    keys = sorted((key for key in rows if key.label == label), key=lambda key: key.scale or 0.0)

    def flat(values_SN: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.broadcast_to(values_SN, (runs, values_SN.shape[1])).ravel()

    measured = [{**rows[key][1], OVERALL: overall(rows[key][1], units)} for key in keys]
    return Frontier(
        np.array([key.scale for key in keys], np.float64),
        np.stack([flat(values[axis]) for values in measured]),
        {name: np.stack([flat(values[name]) for values in measured]) for name in ERRORS},
    )


def _answer(
    question: Question,
    axis: str,
    pair: dict[str, Frontier],
    method: str,
    reference: str,
    runs: int,
    seed: int,
) -> Comparison:
    found = compare_at_matched_identity(pair, reference, seed, runs=runs)
    own, other = found[method], found[reference]
    common = {"key": question.key, "question": question.text, "method": method, "reference": reference}
    if own is None or other is None:
        return Comparison(**common, axis=axis, **_nearest(pair[method], pair[reference], axis, runs, seed))
    differences = tuple(_difference(name, own, other) for name in own.errors if _known(own, other, name))
    deciding = differences[0]
    return Comparison(
        **common,
        axis=axis,
        level=rounded(own.level),
        scale=rounded(own.scale),
        reference_scale=rounded(other.scale),
        differences=differences,
        verdict=OPEN if own.level <= CHANCE.get(axis, 0.0) else verdict(deciding.low, deciding.high),
        because=f"at {axis} {own.level:.3g} the attribute error is {deciding.value:.3f} against "
        f"{deciding.reference:.3f}: {_told(deciding)}",
    )


def verdict(low: float | None, high: float | None) -> str:
    """What the interval of a difference in errors says; an error is better where it is lower."""
    if low is None or high is None:
        return OPEN
    return YES if high < 0 else NO if low > 0 else OPEN


def _known(own: MatchedMethod, other: MatchedMethod, name: str) -> bool:
    return math.isfinite(own.errors[name].value) and math.isfinite(other.errors[name].value)


def _difference(name: str, own: MatchedMethod, other: MatchedMethod) -> Difference:
    difference = own.differences[name]
    given = math.isfinite(difference.low)
    return Difference(
        metric=name,
        value=rounded(own.errors[name].value),
        reference=rounded(other.errors[name].value),
        difference=rounded(difference.value),
        low=rounded(difference.low) if given else None,
        high=rounded(difference.high) if given else None,
    )


def _told(item: Difference) -> str:
    if item.low is None or item.high is None:
        return f"{item.difference:+.3f}, without an interval"
    return f"{item.difference:+.3f}, 95 % interval {item.low:+.3f} to {item.high:+.3f}"


def _nearest(method: Frontier, reference: Frontier, axis: str, runs: int, seed: int) -> dict:
    """Where no identity is shared: both points whose identities are nearest, compared in both.

    "yes" where one of identity and attribute error is better for certain and the other is not worse in the
    mean, "no" the other way round.
    """
    weights = resampled_weights(method.identity_KN.shape[1], seed, runs=runs)
    gaps = np.abs(method.identity_KN.mean(axis=1)[:, None] - reference.identity_KN.mean(axis=1)[None])
    own, other = (int(place) for place in np.unravel_index(int(gaps.argmin()), gaps.shape))
    identity = _paired("less_" + axis, -method.identity_KN[own], -reference.identity_KN[other], weights)
    differences = [
        _paired(name, method.errors[name][own], reference.errors[name][other], weights)
        for name in ERRORS
        if np.isfinite(method.errors[name][own]).any()
    ]
    shown = max(-identity.value, -identity.reference) > CHANCE.get(axis, 0.0)
    both = (identity, differences[0])
    signs = [verdict(item.low, item.high) for item in both]
    if not shown:
        answer = OPEN
    elif YES in signs and all(item.difference <= 0 for item in both):
        answer = YES
    elif NO in signs and all(item.difference >= 0 for item in both):
        answer = NO
    else:
        answer = OPEN
    return {
        "level": None,
        "scale": float(method.scales_K[own]),
        "reference_scale": float(reference.scales_K[other]),
        "differences": tuple(differences),
        "verdict": answer,
        "because": ("" if shown else "neither is above chance; ")
        + f"no {axis} is shown by both (or one does not move with the guidance); where they are "
        f"nearest, {axis} is {abs(identity.value):.3f} against {abs(identity.reference):.3f}, and the "
        "attribute "
        f"error {_told(differences[0])}",
    }


def _paired(
    name: str, own: NDArray[np.float64], other: NDArray[np.float64], weights: NDArray[np.float64]
) -> Difference:
    known = np.isfinite(own) & np.isfinite(other)
    shares = weights @ known.astype(np.float64)
    drawn = shares > 0
    means = [(weights @ np.where(known, values, 0.0))[drawn] / shares[drawn] for values in (own, other)]
    low, high = np.quantile((means[0] - means[1])[1:], [0.025, 0.975])
    return Difference(
        metric=name,
        value=rounded(float(means[0][0])),
        reference=rounded(float(means[1][0])),
        difference=rounded(float(means[0][0] - means[1][0])),
        low=rounded(float(low)),
        high=rounded(float(high)),
    )
