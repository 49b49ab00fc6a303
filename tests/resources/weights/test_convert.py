"""Legacy files: plain state dicts come through unchanged, everything that could run code is refused."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from resources.weights import convert as convert_module
from resources.weights.convert import convert
from resources.weights.convert_child import REFUSED, convert_file
from resources.weights.entries import Conversion
from resources.weights.errors import WeightError


class Touch:
    """A pickle of this makes a file when it is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def attempt(source: Path, folder: Path, how: Conversion | None = None) -> Path:
    return convert("net", source, how or Conversion(), folder, report=lambda text: None)


def test_a_state_dict_comes_through_with_its_names_put_right(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    state = {"module.a.weight": weight, "module.b.bias": weight.T, "epoch": 7}
    torch.save({"net": {"state": state}, "optimiser": [1, 2]}, tmp_path / "net.pth")
    made = attempt(
        tmp_path / "net.pth", tmp_path / "out", Conversion(inside=("net", "state"), strip=("module.",))
    )
    tensors = load_file(made)
    assert sorted(tensors) == ["a.weight", "b.bias"]
    assert np.array_equal(tensors["a.weight"], weight.numpy())
    assert np.array_equal(tensors["b.bias"], weight.numpy().T)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["net.safetensors"]
    kept = Conversion(inside=("net", "state"), keep="module.a.")
    assert convert_file(tmp_path / "net.pth", tmp_path / "kept", kept) == 0
    assert list(load_file(tmp_path / "kept")) == ["module.a.weight"]


def test_files_of_the_old_torch_format_are_read_too(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    assert convert_file(tmp_path / "old.tar", tmp_path / "out", Conversion()) == 0
    assert load_file(tmp_path / "out")["a"].tolist() == [1.0, 1.0]


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.tar")
    way_out = "take the plain state dict"
    with pytest.raises(WeightError, match=r"torch\.nn\.modules\.linear\.Linear.*To mend it: take the plain"):
        attempt(tmp_path / "whole.tar", tmp_path, Conversion(way_out=way_out))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    torch.save({"a": torch.ones(1), "b": Touch(sign)}, tmp_path / "bad.pth")
    (tmp_path / "bad.npy").write_bytes(npy_of({"u": np.zeros(3), "x": Touch(sign)}))
    for name, kind in (("bad.pth", "state_dict"), ("bad.npy", "face_model")):
        with pytest.raises(WeightError, match=r"posix\.system|system"):
            attempt(tmp_path / name, tmp_path, Conversion.model_validate({"kind": kind}))
    assert not sign.exists()
    pickle.loads(pickle.dumps(Touch(sign)))
    assert sign.exists(), "the pickle would have done it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or no torch file|no plain state dict"),
        (b"PK\x03\x04 and nothing more", "damaged or no torch file"),
        (b"\x80\x02 this is no pickle", "no plain state dict|damaged"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    assert convert_file(tmp_path / "net.pth", tmp_path / "out", Conversion()) == REFUSED
    told = capsys.readouterr().out
    assert re.search(message, told)
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_parts_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"other": {"a": torch.ones(1)}}, tmp_path / "net.pth")
    inside = Conversion(inside=("net_recon",))
    assert convert_file(tmp_path / "net.pth", tmp_path / "out", inside) == REFUSED
    assert "no entry 'net_recon'; it has other" in capsys.readouterr().out
    tower = Conversion(inside=("other",), keep="visual.")
    assert convert_file(tmp_path / "net.pth", tmp_path / "out", tower) == REFUSED
    assert "holds no tensor whose name begins with 'visual.'" in capsys.readouterr().out


def test_the_child_may_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1 << 22, dtype=torch.uint8)}, tmp_path / "big.pth")
    monkeypatch.setattr(convert_module, "FILE_BYTES", 1 << 20)
    with pytest.raises(WeightError, match="was not converted"):
        attempt(tmp_path / "big.pth", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def npy_of(content: object) -> bytes:
    """An array file around one pickled object, as numpy.save writes it with allow_pickle."""
    holder = np.empty((), object)
    holder[()] = content
    path = Path(os.environ["ORCHARD_WEIGHTS"])
    path.mkdir(parents=True, exist_ok=True)
    np.save(path / "any.npy", holder, allow_pickle=True)
    return (path / "any.npy").read_bytes()


def test_a_face_model_becomes_plain_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(1)
    content = {
        "u": random.random((6, 1)),
        "ldm68": np.arange(68),
        "parallel": [np.arange(3), [4, 5]],
        "uneven": np.array([np.arange(2), np.arange(3)], dtype=object),
    }
    (tmp_path / "face_model.npy").write_bytes(npy_of(content))
    arrays = load_file(attempt(tmp_path / "face_model.npy", tmp_path, Conversion(kind="face_model")))
    assert np.array_equal(arrays["u"], content["u"])
    assert arrays["parallel.0"].tolist() == [0, 1, 2]
    assert arrays["parallel.1"].tolist() == [4, 5]
    assert arrays["uneven.1"].tolist() == [0, 1, 2]
    (tmp_path / "cut.npy").write_bytes((tmp_path / "face_model.npy").read_bytes()[:-40])
    np.save(tmp_path / "plain.npy", np.zeros(3))
    for name, message in (("cut", "cut short or damaged"), ("plain", "where one pickled dict should be")):
        code = convert_file(tmp_path / f"{name}.npy", tmp_path / "out", Conversion(kind="face_model"))
        assert code == REFUSED
        assert message in capsys.readouterr().out
