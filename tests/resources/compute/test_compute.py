"""Compute: device choices are right and said aloud; threads are limited; models load once and close."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from resources.compute.device import DeviceUnavailable, choose_device, limit_threads
from resources.compute.local import close, close_all, once_per_process


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch answers on a machine with an old and a new GPU; the choice itself runs for real."""
    has_gpus(monkeypatch, "cuda", 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ("Tesla T4", "H100")[index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((7, 5), (9, 0))[index])


def has_gpus(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int) -> None:
    """Let torch be built for GPUs of a kind, or none, and see so many."""
    built = None if kind is None else torch.device(kind)

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return built if count or not check_available else None

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpus(monkeypatch, None, 0)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_says_why_and_cuda_fails(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        choice = choose_device("auto")
    assert (choice.device, choice.dtype) == ("cpu", "float32")
    assert torch.__version__ in choice.reason
    assert choice.reason in caplog.text
    for requested in ("cuda", "cuda:1", "mps", "xpu"):
        with pytest.raises(
            DeviceUnavailable, match=f"{requested} was asked for, but torch .* ask for cpu or auto"
        ):
            choose_device(requested)


@pytest.mark.usefixtures("two_gpus")
def test_with_gpus_the_asked_one_is_taken() -> None:
    assert choose_device("cpu").device == "cpu"
    for requested in ("auto", "cuda", "cuda:0"):
        choice = choose_device(requested)
        assert (choice.device, choice.dtype) == ("cuda:0", "float32")
        assert "Tesla T4, which has no bfloat16" in choice.reason
    assert choose_device("cuda:1").dtype == "bfloat16"
    with pytest.raises(DeviceUnavailable, match=r"sees 2 GPU\(s\), cuda:0 to cuda:1; .*CUDA_VISIBLE_DEVICES"):
        choose_device("cuda:2")


def test_a_driver_that_is_not_there_is_named_by_its_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, tool in (("cuda", "nvidia-smi"), ("xpu", "ZE_AFFINITY_MASK"), ("mps", "macOS")):
        has_gpus(monkeypatch, kind, 0)
        assert tool in choose_device("auto").reason


def test_no_kind_of_gpu_is_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpus(monkeypatch, "xpu", 2)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda index: "Data Center GPU Max 1550")
    monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda including_emulation: True)
    for requested, device in (("auto", "xpu:0"), ("xpu:1", "xpu:1")):
        choice = choose_device(requested)
        assert (choice.device, choice.dtype) == (device, "bfloat16")
    with pytest.raises(DeviceUnavailable, match="this torch's GPUs are called xpu"):
        choose_device("cuda")
    has_gpus(monkeypatch, "mps", 1)
    assert (choose_device("auto").device, choose_device("mps").dtype) == ("mps", "float32")
    # torch calls AMD's GPUs cuda, and its builds for them have no version of CUDA
    has_gpus(monkeypatch, "cuda", 1)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "MI300X")
    assert (choose_device("auto").device, choose_device("auto").dtype) == ("cuda:0", "bfloat16")


@pytest.mark.parametrize("requested", ["", "gpu", "cuda:", "cuda:-1", "CPU", "mps:0", "auto:1"])
def test_unknown_devices_are_refused(requested: str) -> None:
    with pytest.raises(ValueError, match="use auto, cpu, mps, cuda, xpu"):
        choose_device(requested)


def test_threads_are_limited_before_and_after_loading() -> None:
    code = """
import json, sys
early = sys.argv[1] == "early"
if early:
    import cv2, torch
from resources.compute.device import choose_device, limit_threads
choose_device("cpu")
light = early or not {"torch", "cv2"} & set(sys.modules)
limit_threads(1)
import cv2, torch
print(json.dumps([light, torch.get_num_threads(), cv2.getNumThreads()]))
"""
    for moment in ("early", "late"):
        shown = subprocess.run(
            [sys.executable, "-c", code, moment], capture_output=True, text=True, check=True
        )
        assert json.loads(shown.stdout) == [True, 1, 1], moment
    with pytest.raises(ValueError, match="at least one thread"):
        limit_threads(0)


class Model:
    """Something that must be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    close_all()


def test_a_model_is_made_once_and_closed_once() -> None:
    first = once_per_process(("mesh", "digest"), Model)
    assert once_per_process(("mesh", "digest"), Model) is first
    assert once_per_process(("mesh", "other digest"), Model) is not first
    assert close(("mesh", "digest"))
    assert not close(("mesh", "digest"))
    assert first.closed == 1
    assert once_per_process(("mesh", "digest"), Model) is not first


def test_objects_without_close_and_none_are_kept_too() -> None:
    calls: list[int] = []
    for _ in range(2):
        assert once_per_process("nothing", lambda: calls.append(1)) is None
    assert calls == [1]
    close_all()
    once_per_process("nothing", lambda: calls.append(1))
    assert calls == [1, 1]


def test_threads_share_one_object_and_other_keys_do_not_wait() -> None:
    made: list[Model] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> Model:
        entered.set()
        assert go_on.wait(10)
        time.sleep(0.01)
        made.append(Model())
        return made[-1]

    got: list[Model] = []
    threads = [threading.Thread(target=lambda: got.append(once_per_process("slow", slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert isinstance(once_per_process("quick", Model), Model)  # while the slow one is still being made
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert got == made * 4


def test_a_failing_factory_leaves_nothing_behind() -> None:
    def failing() -> Model:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        once_per_process("model", failing)
    assert isinstance(once_per_process("model", Model), Model)


def test_a_factory_may_ask_for_other_models_and_exit_closes_all() -> None:
    code = """
from resources.compute.local import once_per_process
class Model:
    def __init__(self, name): self.name = name
    def close(self): print("closed", self.name)
def outer():
    once_per_process("inner", lambda: Model("inner"))
    return Model("outer")
once_per_process("outer", outer)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(shown.stdout.split("\n")[:2]) == ["closed inner", "closed outer"]
