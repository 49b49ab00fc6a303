"""The choice of an engine, with its reason: options of a command come before variables of the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, cast, get_args

from resources.compute.ray_cluster import AuthMode

EngineName = Literal["local", "ray"]
ENGINE_VARIABLE = "ORCHARD_ENGINE"
ADDRESS_VARIABLE = "ORCHARD_RAY_ADDRESS"
ACTORS_VARIABLE = "ORCHARD_RAY_ACTORS"
AUTH_VARIABLE = "ORCHARD_RAY_AUTH"


@dataclass(frozen=True)
class EngineChoice:
    """Where row stages are computed.

    Attributes:
        name: `local` (this process) or `ray` (processes of a Ray cluster).
        reason: one sentence for people.
        address: `host:port` of an existing cluster; None: this machine's own, started where it does not run.
        actors: processes of a stage at most; None: as many as the cluster holds.
        auth: whether an existing cluster wants a token.
    """

    name: EngineName
    reason: str
    address: str | None = None
    actors: int | None = None
    auth: AuthMode = "token"


def choose_engine(
    name: str | None = None, address: str | None = None, actors: int | None = None, auth: str | None = None
) -> EngineChoice:
    """Choose by what is given, and by the environment for what is None.

    Raises ValueError for an engine, number or mode that does not exist, and for Ray's settings without Ray.
    """
    said = "--engine" if name else ENGINE_VARIABLE
    name = name or os.environ.get(ENGINE_VARIABLE) or None
    if name is not None and name not in get_args(EngineName):
        raise ValueError(f"{said} is {name!r}; it is one of {', '.join(get_args(EngineName))}")
    if name != "ray":
        if address is not None or actors is not None:
            raise ValueError("--ray-address and --ray-actors are for --engine ray")
        return EngineChoice("local", f"{said} says so" if name else "no other engine was asked for")
    address = address or os.environ.get(ADDRESS_VARIABLE) or None
    if actors is None and os.environ.get(ACTORS_VARIABLE):
        if not os.environ[ACTORS_VARIABLE].isdecimal():
            raise ValueError(f"{ACTORS_VARIABLE} is {os.environ[ACTORS_VARIABLE]!r}; it should be a number")
        actors = int(os.environ[ACTORS_VARIABLE])
    if actors is not None and actors < 1:
        raise ValueError(f"at least one actor is needed, not {actors}")
    auth = auth or os.environ.get(AUTH_VARIABLE) or "token"
    if auth not in get_args(AuthMode):
        raise ValueError(f"{AUTH_VARIABLE} is {auth!r}; it is one of {', '.join(get_args(AuthMode))}")
    where = f"the cluster at {address}" if address else "this machine's own cluster"
    reason = f"{said} says so; {where}, up to {actors or 'as many as it holds'} processes of a stage"
    return EngineChoice("ray", reason, address, actors, cast(AuthMode, auth))
