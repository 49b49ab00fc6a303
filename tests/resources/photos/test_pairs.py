"""Lists of swap pairs: what is read, and that every fault names its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resources.photos.pairs import SwapPair, SwapPairsError, read_swap_pairs
from resources.photos.world_parameters import PairParameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/1.png").write_bytes(b"x")
    return tmp_path


def test_pairs_are_read_in_order(folder: Path) -> None:
    path = folder / "swap_pairs.csv"
    path.write_text(
        '\ufeffsource,target,truth\r\na/1,b/2,truth/1.png\r\n\r\n"a,b/""1""",é/2,\r\nsrc/0,src/0,\r\n',
        encoding="utf-8",
    )
    assert read_swap_pairs(path) == [
        SwapPair("a/1", "b/2", folder / "truth/1.png"),
        SwapPair('a,b/"1"', "é/2", None),
        SwapPair("src/0", "src/0", None),
    ]


def test_a_fourth_column_says_what_a_pair_is_for(folder: Path) -> None:
    text = "source,target,truth,use\na/1,b/2,truth/1.png,training\nb/2,a/1,,evaluation\nb/2,c/1,,training\n"
    (folder / "pairs.csv").write_text(text)
    first, second, third = read_swap_pairs(folder / "pairs.csv")
    assert first == SwapPair("a/1", "b/2", folder / "truth/1.png", use="training")
    assert (second.use, third.use, third.truth) == ("evaluation", "training", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"csv:1: the header must be source,target,truth"),
        ("target,source,truth\n", r"csv:1: the header .* 'target,source,truth'"),
        ("source,target,truth\na/1,b/2\n", r"csv:2: 2 cells"),
        ("source,target,truth\na/1,b/2,,\n", r"csv:2: 4 cells"),
        ("source,target,truth\na/1,b/2,\n\n,b/2,\n", r"csv:4: source '' is no image id"),
        ("source,target,truth,use\na/1,b/2,\n", r"csv:2: 3 cells, 4 are needed"),
        ("source,target,truth,use\na/1,b/2,,test\n", r"csv:2: use is 'test'; it must be evaluation or tr"),
        ("source,target,truth\na/1,b,\n", r"csv:2: target 'b' is no image id"),
        ("source,target,truth\na/1,b/2,truth/2.png\n", r"csv:2: the truth file truth/2.png does not exist"),
        ("source,target,truth\na/1,b/2,\na/1,b/3,\na/1,b/2,\n", r"csv:4: this pair is listed in line 2"),
        ('source,target,truth\na/1,"b/2,\n', r"csv:2: unexpected end of data"),
    ],
)
def test_faults_name_their_line(folder: Path, text: str, message: str) -> None:
    path = folder / "pairs.csv"
    path.write_text(text)
    with pytest.raises(SwapPairsError, match=message):
        read_swap_pairs(path)


def test_files_that_cannot_be_read_are_named(folder: Path) -> None:
    with pytest.raises(SwapPairsError, match=r"absent\.csv: cannot be read"):
        read_swap_pairs(folder / "absent.csv")
    (folder / "latin.csv").write_bytes(b"source,target,truth\nM\xfcller/1,b/2,\n")
    with pytest.raises(SwapPairsError, match=r"latin\.csv: not UTF-8 at byte 21"):
        read_swap_pairs(folder / "latin.csv")


def test_a_world_beside_the_list_gives_the_parameters_of_its_own_answers(folder: Path) -> None:
    (folder / "truth/2.png").write_bytes(b"y")
    world = {
        "world_version": "2",
        "identities": {"a": [0.5, 0.25], "b": [0.75, 1]},
        "photos": {"a/1": [1, 2], "b/2": [3, 4]},
        "swap_pairs": [{"source": "a/1", "target": "b/2", "truth": "truth/1.png"}],
        "size": 64,
    }
    (folder / "world.json").write_text(json.dumps(world))
    (folder / "pairs.csv").write_text("source,target,truth\na/1,b/2,truth/1.png\nb/2,a/1,truth/2.png\n")
    known, other = read_swap_pairs(folder / "pairs.csv")
    assert known.world is not None
    assert PairParameters.model_validate_json(known.world) == PairParameters(
        world_version="2", source_identity=(0.5, 0.25), target_identity=(0.75, 1.0), attributes=(3.0, 4.0)
    )
    assert other.world is None
    (folder / "pairs.csv").write_text("source,target,truth\na/1,b/2,truth/2.png\n")
    assert read_swap_pairs(folder / "pairs.csv")[0].world is None  # the answer was exchanged by hand
    world["swap_pairs"] = [{"source": "b/2", "target": "a/1", "truth": "", "use": "training"}]
    (folder / "world.json").write_text(json.dumps(world))
    (folder / "pairs.csv").write_text("source,target,truth,use\nb/2,a/1,,training\nb/2,a/1x,,training\n")
    unwritten, unknown = read_swap_pairs(folder / "pairs.csv")
    assert unwritten.world is not None
    assert PairParameters.model_validate_json(unwritten.world).attributes == (1.0, 2.0)
    assert unknown.world is None
    world["identities"] = {"a": [0.5, 0.25]}
    (folder / "world.json").write_text(json.dumps(world))
    with pytest.raises(SwapPairsError, match=r"world\.json is damaged: 'b'"):
        read_swap_pairs(folder / "pairs.csv")
