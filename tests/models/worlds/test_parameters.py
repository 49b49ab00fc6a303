from __future__ import annotations

import numpy as np
import pytest

from models.worlds import Attributes, Identities, sample_attributes, sample_identities
from models.worlds.parameters import ATTRIBUTE_PARAMETERS, IDENTITY_PARAMETERS


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
