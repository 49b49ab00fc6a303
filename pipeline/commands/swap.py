"""`orchard swap`: one face onto one photograph, with the lake's student or teacher."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from assets.one_swap import SwapRequest, swap_photographs
from pipeline.options import (
    DEFAULT_LAKE,
    DEFAULT_PROFILE,
    DeviceOption,
    JsonOption,
    LakeOption,
    ProfileOption,
    UsageError,
    open_graph,
    open_lake,
    print_json,
)


class Method(StrEnum):
    """Which model swaps."""

    STUDENT = "student"
    TEACHER = "teacher"
    TEACHER_INVERSION = "teacher_inversion"


def swap_command(
    source: Annotated[Path, typer.Argument(help="Photograph that gives the identity.")],
    target: Annotated[Path, typer.Argument(help="Photograph that gives everything else.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("swap.png"),
    consent: Annotated[
        str | None,
        typer.Option(
            help="Your statement on what basis both people's pictures may be used; written into the result."
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="Which model of the lake swaps.")] = Method.STUDENT,
    id_guidance_scale: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Above 1 strengthens the source's identity; attributes suffer. The profile's unless given.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    lake: LakeOption = DEFAULT_LAKE,
    profile: ProfileOption = DEFAULT_PROFILE,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Swap the face of SOURCE onto TARGET.

    The whole frame of TARGET is resized to the model's size, as in the original. The result says in its own
    metadata (IPTC digitalSourceType) that a model made it, which one, and your statement of consent.
    Swapping somebody's face without their consent can be a crime; the statement is required.
    """
    if not consent or not consent.strip():
        raise UsageError(
            "say on what basis both people's pictures may be used, e.g. --consent 'both subjects agreed in "
            "writing, 2026-11-02' or --consent 'synthetic faces'"
        )
    opened = open_lake(lake)
    graph = open_graph(opened, profile)
    request = SwapRequest(source, target, consent.strip(), method.value, id_guidance_scale, seed)
    data, mark = swap_photographs(opened, graph, request, device=device)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    if json:
        print_json({"out": str(out), **mark.model_dump(mode="json")})
    else:
        typer.echo(f"{out}, made by {mark.model_id}, marked as {mark.stage}")
