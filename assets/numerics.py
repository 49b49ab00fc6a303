"""A stage's network on its device, computing as its profile asked; every choice is told with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from assets.stage import StageContext
from models.numerics_config import Numerics
from resources.compute.device import choose_device

if TYPE_CHECKING:  # torch loads with a network
    from torch import nn

    Network = TypeVar("Network", bound=nn.Module)

PIXELS_ARE_EXACT = "its results are pixels and angles, which bfloat16 would move by about one in 250"
"""Why a stage that gives coordinates keeps to float32 unless its profile asks otherwise."""


def prepared(
    network: Network,
    context: StageContext,
    numerics: Numerics,
    *,
    name: str,
    exact: str = "",
    method: str = "forward",
) -> Network:
    """The same network, ready to be called; `name` is what reports call it.

    Args:
        network: as its file was loaded, on the CPU.
        context: the stage's; its device is taken and its report told.
        numerics: what the profile asks for.
        name: stage and network, e.g. "masks, BiSeNet".
        exact: why it keeps to float32 where nothing else is asked for, if it does.
        method: what is called of it.

    Raises:
        models.numerics.CompileUnavailable: compiling was asked for and does not work here.
    """
    from models.numerics import choose_numerics, prepare

    preferred = choose_device(context.device).dtype
    chosen = choose_numerics(numerics, context.device, preferred, exact)
    context.report(f"{name} on {context.device}: {'; '.join(chosen.reasons)}")
    return prepare(network, chosen, context.device, method)
