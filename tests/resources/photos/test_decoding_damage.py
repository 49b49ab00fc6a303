"""Damaged photographs: whatever is cut off, changed or made up, the answer is a RowError or a picture."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.photos.decoding import (
    DecodeLimits,
    decode_photo,
    inspect_photo,
)
from resources.photos.reasons import Reason, RowError

Broken = Mapping[str, tuple[bytes, Reason]]
Good = Mapping[str, bytes]


def reason_of(data: bytes) -> Reason:
    """Why a file is refused; the refusal says something to people, too."""
    with pytest.raises(RowError) as caught:
        inspect_photo(data)
    assert caught.value.detail
    return caught.value.reason


def test_every_prefix_of_a_photo_is_refused(good_photos: Good) -> None:
    for name in ("baseline.jpg", "progressive.jpg", "plain.png", "lossy.webp"):
        data = good_photos[name]
        for length in [*range(40), *range(40, len(data), 501), len(data) - 1]:
            expected = {Reason.EMPTY} if length == 0 else {Reason.TRUNCATED}
            if length == len(data) - 1 and name == "lossy.webp":
                continue  # the last byte may be RIFF padding, which writers forget
            assert reason_of(data[:length]) in expected | ({Reason.NOT_AN_IMAGE} if length < 12 else set()), (
                name,
                length,
            )


@settings(
    max_examples=150,
    deadline=5000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_mutated_photos_raise_row_errors_only(good_photos: Good, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(good_photos)))
    photo = bytearray(good_photos[name])
    # Half of the mutations fall on the first 200 bytes, where the headers are.
    offsets = st.one_of(st.integers(0, min(199, len(photo) - 1)), st.integers(0, len(photo) - 1))
    for offset, value in data.draw(
        st.lists(st.tuples(offsets, st.integers(0, 255)), min_size=1, max_size=12)
    ):
        photo[offset] = value
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(photo))))
    mutated = bytes(photo[:cut])
    limits = DecodeLimits(max_pixels=1_000_000)
    try:
        facts, pixels = decode_photo(mutated, limits)
    except RowError:
        return  # the one exception that is allowed
    assert pixels.shape == (facts.height, facts.width, 3)
    assert pixels.size <= 3_000_000


@settings(max_examples=200, deadline=2000, derandomize=True)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\x00\x00WEBPVP8X"]),
    st.binary(max_size=300),
)
def test_random_bytes_raise_row_errors_only(signature: bytes, body: bytes) -> None:
    with pytest.raises(RowError):
        inspect_photo(signature + body)
