from __future__ import annotations

import numpy as np
import pytest

from models.worlds import Attributes, Identities, sample_attributes, sample_identities
from models.worlds.parameters import ATTRIBUTE_PARAMETERS, IDENTITY_PARAMETERS
from models.worlds.sampling import held_out_seed


def test_samples_are_repeatable_and_do_not_depend_on_the_count() -> None:
    for sample in (sample_identities, sample_attributes):
        many, few = sample(7, 50).values, sample(7, 5).values
        assert many.dtype == np.float32
        np.testing.assert_array_equal(many[:5], few)
        assert not np.array_equal(sample(8, 5).values, few)
        assert not np.array_equal(few[0], few[1])


def test_every_parameter_varies_and_stays_in_its_range() -> None:
    for rows, parameters, normalised in (
        (sample_identities(0, 2000), IDENTITY_PARAMETERS, True),
        (sample_attributes(0, 2000), ATTRIBUTE_PARAMETERS, False),
    ):
        for parameter in parameters:
            column = rows.column(parameter.name)
            low, high = (-1.0, 1.0) if normalised else (parameter.low, parameter.high)
            assert column.min() >= low - 1e-6, parameter.name
            assert column.max() <= high + 1e-6, parameter.name
            assert column.std() > 0.08 * (high - low), parameter.name


def test_crops_and_occluders_are_drawn_as_asked_for_and_change_nothing_else() -> None:
    mixed = sample_attributes(0, 4000)
    shares = [float((mixed.column("crop") == crop).mean()) for crop in range(3)]
    np.testing.assert_allclose(shares, (0.6, 0.3, 0.1), atol=0.03)
    assert float((mixed.column("occluder") > 0).mean()) == pytest.approx(0.1, abs=0.02)
    assert set(np.unique(mixed.column("occluder"))) == {0, 1, 2, 3}
    chosen = sample_attributes(0, 4000, crops=("bust", "portrait"), occluded=0.0)
    assert set(np.unique(chosen.column("crop"))) == {1, 2}
    assert float((chosen.column("crop") == 1).mean()) == pytest.approx(0.75, abs=0.03)
    assert (chosen.column("occluder") == 0).all()
    same = mixed.replace(crop=chosen.column("crop"), occluder=0.0)
    np.testing.assert_array_equal(same.values, chosen.values)
    for crops in ((), ("face", "whole body")):
        with pytest.raises(ValueError, match="crops must be some of face, portrait, bust"):
            sample_attributes(0, 1, crops=crops)
    with pytest.raises(ValueError, match="share from 0 to 1, got 2"):
        sample_attributes(0, 1, occluded=2.0)


def test_other_seeds_share_no_one_and_no_photograph() -> None:
    for sample in (sample_identities, sample_attributes):
        streams = [sample(seed, 1500).values for seed in (0, 1, held_out_seed(0), held_out_seed(1))]
        # No number of a person recurs by more than chance, so that nobody is even nearly someone else.
        rows = np.concatenate(streams)
        assert len(np.unique(rows, axis=0)) == len(rows)
        for other in streams[1:]:
            assert float((streams[0][:, 0] == other[:, 0]).mean()) < 0.01
    people = np.concatenate([sample_identities(seed, 400).values for seed in (0, held_out_seed(0))])
    distance = np.linalg.norm(people[:400, None] - people[None, 400:], axis=2)
    assert distance.min() > 1.5  # of 5 between two people on average


def test_names_are_unique_and_records_carry_the_table_s_units() -> None:
    for parameters in (IDENTITY_PARAMETERS, ATTRIBUTE_PARAMETERS):
        names = [parameter.name for parameter in parameters]
        assert len(set(names)) == len(names)
        assert all(parameter.low < parameter.high and parameter.meaning for parameter in parameters)
    middle = Identities(np.zeros((1, len(IDENTITY_PARAMETERS)), np.float32)).records()
    assert middle["jaw_width"][0] == pytest.approx(0.64)
    attributes = sample_attributes(3, 4)
    np.testing.assert_array_equal(attributes.records()["yaw"], attributes.column("yaw"))


def test_rows_are_chosen_by_index_slice_and_number() -> None:
    people = sample_identities(0, 4)
    np.testing.assert_array_equal(people[np.array([0, 0, 3])].values, people.values[[0, 0, 3]])
    np.testing.assert_array_equal(people[1:3].values, people.values[1:3])
    assert people[2].values.shape == (1, len(IDENTITY_PARAMETERS))
    assert len(people[np.array([], np.int64)]) == 0


def test_replace_changes_the_named_column_only() -> None:
    before = sample_attributes(0, 3)
    after = before.replace(yaw=np.array([0.1, 0.2, 0.3], np.float32), smile=0.5)
    np.testing.assert_array_equal(after.column("yaw"), np.array([0.1, 0.2, 0.3], np.float32))
    np.testing.assert_array_equal(after.column("smile"), np.full(3, 0.5, np.float32))
    np.testing.assert_array_equal(after.column("pitch"), before.column("pitch"))
    with pytest.raises(ValueError, match="grin"):
        before.replace(grin=1.0)


def test_bad_rows_are_refused_with_the_parameter_s_name() -> None:
    with pytest.raises(ValueError, match="shape"):
        Identities(np.zeros((2, 3), np.float32))
    values = sample_attributes(0, 2).values.copy()
    values[1, 0] = 3.0
    with pytest.raises(ValueError, match="row 1: yaw = 3"):
        Attributes(values)
    values[1, 0] = np.nan
    with pytest.raises(ValueError, match="row 1: yaw = nan"):
        Attributes(values)
