"""What a process uses of its device: memory, and how busy it is where the driver tells."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceUse:
    """A device as this process sees it.

    `peak_bytes` is the most that this process held there, `total_bytes` the device's memory, `utilisation`
    its share of busy time as the driver counts it, 0 to 1; None where nobody says.
    """

    device: str
    peak_bytes: int | None = None
    total_bytes: int | None = None
    utilisation: float | None = None

    def told(self) -> str:
        """In words, e.g. `cuda: 3.1 of 24.0 GiB, 87 % busy`."""
        parts = []
        if self.peak_bytes is not None and self.total_bytes:
            parts.append(f"{self.peak_bytes / 2**30:.1f} of {self.total_bytes / 2**30:.1f} GiB")
        if self.utilisation is not None:
            parts.append(f"{self.utilisation:.0%} busy")
        return f"{self.device}: {', '.join(parts)}" if parts else self.device


def device_use() -> DeviceUse:
    """Use of the accelerator that torch works on in this process; `cpu` where there is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.accelerator.is_available():
        return DeviceUse("cpu")
    kind = torch.accelerator.current_accelerator().type
    backend = getattr(torch, kind)
    peak = torch.accelerator.max_memory_allocated() if hasattr(backend, "memory_stats") else None
    total = backend.mem_get_info()[1] if hasattr(backend, "mem_get_info") else None
    return DeviceUse(kind, peak, total, _utilisation(backend))


def _utilisation(backend: object) -> float | None:
    asked = getattr(backend, "utilization", None)
    if asked is None:
        return None
    try:
        return asked() / 100
    except (ImportError, RuntimeError):  # the driver's own library is not installed, or does not count
        return None
