"""Loss curves as pictures, with the newest validation grid beneath."""

from __future__ import annotations

import io
import json

from resources.lake.lake import Artifact, Lake


def read_losses(lake: Lake, artifact: Artifact) -> list[float]:
    """Total loss of every training step of a checkpoint, in order."""
    path = lake.fetch(str(artifact.metadata["losses"]))
    return [json.loads(line)["total"] for line in path.read_text(encoding="utf-8").splitlines()]


def loss_curve(lake: Lake, artifact: Artifact) -> bytes:
    """PNG of a checkpoint's training loss by step, raw and as a running mean, and its last validation grid.

    The grid shows source, target, condition and result of held-out pairs, as the codec decodes them.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = read_losses(lake, artifact)
    window = max(1, len(losses) // 20)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, ends - window)
    grid = _grid(lake, artifact)
    figure = Figure(figsize=(5.2, 2.6 if grid is None else 8.0), dpi=110, layout="tight")
    rows = [1] if grid is None else [2.6, 5.4]
    axes = figure.add_gridspec(len(rows), 1, height_ratios=rows)
    curve = figure.add_subplot(axes[0])
    curve.plot(losses, color="#b9c4cf", linewidth=0.8, label="step")
    curve.plot(
        (sums[ends] - sums[starts]) / (ends - starts),
        color="#1f5f8b",
        linewidth=1.6,
        label=f"mean of {window}",
    )
    curve.set(xlabel="optimiser step", ylabel="loss", title=artifact.stage)
    curve.legend(frameon=False)
    if grid is not None:
        shown = figure.add_subplot(axes[1])
        shown.imshow(grid, interpolation="nearest")
        shown.set_axis_off()
        shown.set_title("source, target, condition, result", fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _grid(lake: Lake, artifact: Artifact):
    location = artifact.metadata.get("validation")
    if location is None:
        return None
    import numpy as np
    from PIL import Image

    path = lake.fetch(str(location))
    if not path.is_file():  # `orchard forget` takes pictures of people away, not the checkpoint
        return None
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
