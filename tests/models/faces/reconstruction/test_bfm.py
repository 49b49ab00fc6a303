"""The face model's file: what it must hold, what is refused, and the published layout."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.faces.reconstruction.bfm import (
    FaceModel,
    FaceModelError,
    load_face_model,
    synthetic_face_model,
)


def arrays(model: FaceModel) -> dict[str, np.ndarray]:
    return {field.name: getattr(model, field.name) for field in fields(model)}


def assert_same(first: FaceModel, second: FaceModel) -> None:
    for name, array in arrays(first).items():
        np.testing.assert_array_equal(getattr(second, name), array, err_msg=name)
        assert getattr(second, name).dtype == array.dtype


def test_files_hold_the_same_model(face_model: FaceModel, tmp_path: Path) -> None:
    face_model.save(tmp_path / "face.safetensors")
    assert_same(load_face_model(tmp_path / "face.safetensors"), face_model)
    np.savez(tmp_path / "face.npz", allow_pickle=False, **arrays(face_model))
    assert_same(load_face_model(tmp_path / "face.npz"), face_model)


def test_the_published_layout_is_understood(face_model: FaceModel, tmp_path: Path) -> None:
    count = face_model.vertex_count
    lines: list[list[int]] = [np.flatnonzero(face_model.profile_line == i).tolist() for i in range(33)]
    lines[3].append(lines[7][0])  # on two lines: the later one has it
    published = {
        "u": face_model.mean_shape.astype(np.float64).reshape(3 * count, 1),
        "id": face_model.identity_basis.reshape(3 * count, 80),
        "exp": face_model.expression_basis.reshape(3 * count, 64),
        "ldm68": face_model.landmarks_68.astype(np.int64),
        "ldm106": face_model.landmarks_106.tolist(),
        "ldm134": face_model.landmarks_134.astype(np.float64),
        "parallel": lines,
        "tri": np.zeros((9, 3)),
    }
    assert_same(FaceModel.from_published(published), face_model)
    flat = {name: np.asarray(value) for name, value in published.items() if name != "parallel"}
    flat |= {f"parallel.{index}": np.array(line, np.int64) for index, line in enumerate(lines)}
    save_file({name: np.ascontiguousarray(array) for name, array in flat.items()}, tmp_path / "f.safetensors")
    assert_same(load_face_model(tmp_path / "f.safetensors"), face_model)
    del flat["parallel.5"]
    save_file({name: np.ascontiguousarray(array) for name, array in flat.items()}, tmp_path / "f.safetensors")
    with pytest.raises(FaceModelError, match=r"f\.safetensors: parallel must hold 33 lists"):
        load_face_model(tmp_path / "f.safetensors")
    for key in ("u", "parallel"):
        with pytest.raises(FaceModelError, match=f"has no {key}"):
            FaceModel.from_published({name: value for name, value in published.items() if name != key})
    with pytest.raises(FaceModelError, match=r"exp must have shape \(1800, 64\), got \(1797, 64\)"):
        FaceModel.from_published(published | {"exp": published["exp"][3:]})
    with pytest.raises(FaceModelError, match="33 lists of vertices, got 32"):
        FaceModel.from_published(published | {"parallel": lines[1:]})
    with pytest.raises(FaceModelError, match=r"line 0 names a vertex outside 0\.\.599"):
        FaceModel.from_published(published | {"parallel": [[600], *lines[1:]]})


def test_the_same_seed_gives_the_same_model(face_model: FaceModel) -> None:
    assert_same(synthetic_face_model(seed=1), face_model)
    assert np.abs(synthetic_face_model(seed=2).mean_shape - face_model.mean_shape).max() > 0.1
    # About two units high and nearer the camera in the middle, like the published one.
    assert 1.4 < np.ptp(face_model.mean_shape[:, 1]) < 2.2
    middle = np.abs(face_model.mean_shape[:, :2]).max(axis=1) < 0.2
    assert face_model.mean_shape[middle, 2].min() > face_model.mean_shape[~middle, 2].mean()
    with pytest.raises(ValueError, match="at least 200"):
        synthetic_face_model(seed=1, vertices=100)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean_shape", np.zeros((600, 2), np.float32), r"mean_shape must be float32 \(600, 3\)"),
        ("mean_shape", np.float32(1), "mean_shape must be float32"),
        ("identity_basis", np.zeros((600, 3, 64), np.float32), r"must be float32 \(600, 3, 80\)"),
        ("expression_basis", np.zeros((600, 3, 64)), "got float64"),
        ("expression_basis", np.full((600, 3, 64), np.nan, np.float32), "NaN"),
        ("landmarks_68", np.full(68, 600, np.int32), r"outside 0\.\.599"),
        ("landmarks_106", np.full(106, -1, np.int32), r"outside 0\.\.599"),
        ("profile_line", np.full(600, 33, np.int32), r"-1 or 0\.\.32, got \[33\]"),
        ("profile_line", np.full(600, 16, np.int32), r"no vertex on the lines \[0, 1, 2"),
    ],
)
def test_wrong_arrays_are_named(face_model: FaceModel, name: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(FaceModelError, match=message):
        replace(face_model, **{name: value})


def test_wrong_files_are_refused(face_model: FaceModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.npz; it is licensed to you"):
        load_face_model(tmp_path / "absent.npz")
    np.save(tmp_path / "pickled.npy", {"u": np.zeros(3)}, allow_pickle=True)  # pyright: ignore[reportArgumentType] - as published
    with pytest.raises(FaceModelError, match=r"must be converted first"):
        load_face_model(tmp_path / "pickled.npy")
    np.savez(tmp_path / "objects.npz", u=np.array([{"a": 1}], object))
    with pytest.raises(FaceModelError, match="allow_pickle"):
        load_face_model(tmp_path / "objects.npz")
    partial = arrays(face_model) | {"tri": np.zeros((3, 3), np.int32)}
    del partial["landmarks_134"]
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(FaceModelError, match=r"missing arrays \['landmarks_134'\], unknown arrays \['tri'\]"):
        load_face_model(tmp_path / "partial.safetensors")
    save_file(arrays(face_model) | {"landmarks_68": np.zeros(60, np.int32)}, tmp_path / "bad.safetensors")
    with pytest.raises(FaceModelError, match=r"bad\.safetensors: landmarks_68 must be int32 \(68,\)"):
        load_face_model(tmp_path / "bad.safetensors")
