"""Loss curves as pictures."""

from __future__ import annotations

import io
import json

from resources.lake.lake import Artifact, Lake


def read_losses(lake: Lake, artifact: Artifact) -> list[float]:
    """Total loss of every training step of a checkpoint, in order."""
    path = lake.fetch(str(artifact.metadata["losses"]))
    return [json.loads(line)["total"] for line in path.read_text(encoding="utf-8").splitlines()]


def loss_curve(lake: Lake, artifact: Artifact) -> bytes:
    """PNG of a checkpoint's training loss by step, raw and as a running mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = read_losses(lake, artifact)
    window = max(1, len(losses) // 20)
    means = [
        sum(losses[max(0, step - window + 1) : step + 1]) / len(losses[max(0, step - window + 1) : step + 1])
        for step in range(len(losses))
    ]
    figure = Figure(figsize=(5.2, 2.6), dpi=110, layout="tight")
    axes = figure.add_subplot()
    axes.plot(losses, color="#b9c4cf", linewidth=0.8, label="step")
    axes.plot(means, color="#1f5f8b", linewidth=1.6, label=f"mean of {window}")
    axes.set(xlabel="optimiser step", ylabel="loss", title=artifact.stage)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
