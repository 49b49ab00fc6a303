"""The licence gate: what needs no question, what is refused, what an acceptance covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.weights.entries import Entry, HubWeight, LocalWeight
from resources.weights.errors import WeightError
from resources.weights.ledger import read_ledger
from resources.weights.licences import accept, check_licence
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import resolve


def entry(role: str = "net", **facts: Any) -> LocalWeight:
    about = {"licence": "CC-BY-NC-4.0", "commercial_ok": False, "trained_on": "faces"} | facts
    return LocalWeight(role=role, path=Path("net.onnx"), **about)


def test_weights_that_allow_any_use_need_no_question() -> None:
    check_licence(entry(licence="MIT", commercial_ok=True))
    for role in ("face_landmarker", "centerface", "dlib_face_recognition", "tiny_base"):
        resolve(role)


def test_a_restricted_licence_is_refused_until_it_is_accepted(weights_folder: Path) -> None:
    net = entry()
    with pytest.raises(WeightError, match=r"\(CC-BY-NC-4.0\) was not accepted yet.*licences --use research"):
        check_licence(net)
    accept([net], "research")
    check_licence(net)
    record = read_ledger().accepted["net"]
    assert (record.licence, record.use) == ("CC-BY-NC-4.0", "research")
    assert record.on.startswith("20")
    with pytest.raises(WeightError, match="was not accepted yet"):
        check_licence(entry(role="another"))


def test_an_acceptance_ends_with_another_licence_or_use() -> None:
    net = entry()
    accept([net], "research")
    with pytest.raises(WeightError, match=r"accepted on .* as 'CC-BY-NC-4.0' .* now it is 'stricter'"):
        check_licence(entry(licence="stricter"))
    gated = entry(role="gated", licence="Apache-2.0", commercial_ok=True, gate="a login")
    accept([gated], "commercial")
    check_licence(gated)
    with pytest.raises(WeightError, match="does not allow commercial use, which is the use that was set"):
        check_licence(net)
    with pytest.raises(WeightError, match="does not allow commercial use"):
        accept([gated, net], "commercial")


def test_a_refused_acceptance_records_nothing(weights_folder: Path) -> None:
    with pytest.raises(WeightError, match="does not allow commercial use"):
        accept([entry()], "commercial")
    assert not (weights_folder / "ledger.json").exists()


def test_a_ledger_that_cannot_be_read_is_told_and_not_overwritten(weights_folder: Path) -> None:
    weights_folder.mkdir()
    (weights_folder / "ledger.json").write_text('{"use": "fun"}')
    with pytest.raises(WeightError, match=r"ledger .* cannot be read"):
        check_licence(entry())
    with pytest.raises(WeightError, match=r"ledger .* cannot be read"):
        accept([entry()], "research")
    assert (weights_folder / "ledger.json").read_text() == '{"use": "fun"}'


@pytest.mark.parametrize("role", sorted(MANIFEST))
def test_every_entry_says_what_a_user_must_know(role: str) -> None:
    found: Entry = MANIFEST[role]
    assert found.licence
    assert found.trained_on
    unsafe = (".pt", ".pth", ".tar", ".bin", ".pkl", ".npy")
    if isinstance(found, HubWeight | LocalWeight):
        file = found.file if isinstance(found, HubWeight) else found.path.name
        assert bool(found.conversion) == file.endswith(unsafe), "pickles are converted, nothing else is"
    if isinstance(found, LocalWeight):
        assert found.how_to_get
    if not found.commercial_ok:
        with pytest.raises(WeightError, match="was not accepted yet"):
            resolve(role)
