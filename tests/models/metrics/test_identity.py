from __future__ import annotations

import numpy as np
import pytest

from models.metrics import identity_leak, identity_similarity


def test_cosine_and_distance_by_hand() -> None:
    first = np.array([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    second = np.array([[0.0, 2.0], [3.0, 4.0], [-5.0, 0.0]])
    np.testing.assert_allclose(identity_similarity(first, second), [0.0, 1.0, -1.0])
    np.testing.assert_allclose(identity_similarity(first, second, "l2"), [-np.sqrt(5), 0.0, -6.0])


def test_cosine_ignores_length_and_distance_does_not() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 10, 16))
    np.testing.assert_allclose(identity_similarity(7 * first, second), identity_similarity(first, second))
    assert not np.allclose(
        identity_similarity(7 * first, second, "l2"), identity_similarity(first, second, "l2")
    )


def test_leak_is_one_for_copies_and_zero_for_swaps() -> None:
    generator = np.random.default_rng(1)
    source, target = generator.normal(size=(2, 50, 32))
    for comparison in ("cosine", "l2"):
        assert identity_leak(target, source, target, comparison).all()
        assert not identity_leak(source, source, target, comparison).any()
        assert identity_leak(source, source, source, comparison).all()
        nearly = identity_leak(0.6 * source + 0.4 * target, source, target, comparison)
        assert nearly.mean() < 0.1


def test_the_comparison_can_decide_the_leak() -> None:
    output, source, target = np.array([[1.0, 0.0]]), np.array([[5.0, 0.0]]), np.array([[1.0, 1.0]])
    assert not identity_leak(output, source, target, "cosine")[0]
    assert identity_leak(output, source, target, "l2")[0]


def test_bad_embeddings_are_refused() -> None:
    good = np.ones((2, 4))
    with pytest.raises(ValueError, match="agree in shape"):
        identity_similarity(good, np.ones((2, 5)))
    with pytest.raises(ValueError, match="row 1 is not finite"):
        identity_similarity(good, np.array([[1.0] * 4, [np.nan] * 4]))
    with pytest.raises(ValueError, match="row 0 is zero"):
        identity_similarity(np.zeros((1, 4)), np.ones((1, 4)))
