"""The committed tables are those of our networks, and files are compared with them strictly."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.weight_tables import MAKERS, all_tables
from resources.weights.entries import LocalWeight
from resources.weights.errors import WeightError
from resources.weights.manifest import MANIFEST
from resources.weights.tables import check_table, read_table

HEAD = "aesthetic_head"


def test_the_committed_tables_are_those_of_the_networks() -> None:
    made = all_tables()
    assert made == {name: read_table(name) for name in MAKERS}
    assert {entry.table for entry in MANIFEST.values() if entry.table} == set(made)


@pytest.mark.parametrize(
    ("name", "tensors", "numbers"),
    [
        ("pulid_flux", 312, 571_033_600),
        ("aesthetic_head", 10, 927_969),
        ("vgg16", 26, 14_714_688),
        ("lpips_vgg", 5, 1_472),
        ("diffface_unet", 570, 554_388_998),
        ("adm_unet", 566, 552_814_086),
    ],
)
def test_published_counts(name: str, tensors: int, numbers: int) -> None:
    table = read_table(name)
    assert len(table) == tensors
    assert sum(prod(shape) for shape in table.values()) == numbers


def test_a_stock_adm_lacks_exactly_the_identity_mlp() -> None:
    whole, stock = read_table("diffface_unet"), read_table("adm_unet")
    missing = {"id_embed.0.weight", "id_embed.0.bias", "id_embed.2.weight", "id_embed.2.bias"}
    assert whole.keys() - stock.keys() == missing
    assert stock == {name: shape for name, shape in whole.items() if name not in missing}


def entry() -> LocalWeight:
    return LocalWeight(
        role=HEAD, path=Path("x"), table=HEAD, licence="MIT", commercial_ok=True, trained_on="nothing"
    )


def test_files_are_compared_strictly(tmp_path: Path) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in read_table(HEAD).items()}
    path = tmp_path / "head.safetensors"
    save_file(tensors, path)
    assert check_table(entry(), path) == 10
    save_file(tensors | {"layers.9.bias": np.zeros(1, np.float32)}, path)
    with pytest.raises(WeightError, match=r"1 tensors unknown, such as layers\.9\.bias"):
        check_table(entry(), path)
    save_file({**tensors, "layers.0.bias": np.zeros(2, np.float32)}, path)
    with pytest.raises(WeightError, match=r"1 tensors of another shape, such as layers\.0\.bias"):
        check_table(entry(), path)
    del tensors["layers.0.bias"]
    save_file(tensors, path)
    with pytest.raises(WeightError, match=r"1 tensors missing, such as layers\.0\.bias"):
        check_table(entry(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightError, match="is cut short or no safetensors file"):
        check_table(entry(), path)
