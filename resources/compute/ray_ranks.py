"""The processes of one training on a Ray cluster: an actor for each, told who it is as torchrun tells it.

An actor runs a function with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, so
what is trained does not know who launched it. What an actor prints comes to the driver. The first that fails
or dies ends all, aloud; nothing is started anew by itself, for a training that is started again goes on from
its last state. Ray is imported inside the functions.
"""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import TextIOBase
from queue import SimpleQueue
from typing import Any, Literal

from resources.compute.ray_cluster import LOOPBACK_NAMES, ClusterUnavailable
from resources.compute.source import source_digest

Placement = Literal["pack", "spread"]

VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Variables by which Ray shows a process its GPUs."""

PLACES_SECONDS = 120.0
"""How long the actors may take to be placed and started."""


class RankFailed(RuntimeError):
    """A process of the training failed or died; the message says which and why. All others were ended."""


@dataclass(frozen=True)
class RankPlace:
    """Where an actor is, and what it found there.

    Attributes:
        node: Ray's name of the node.
        address: the node's, by which the others reach it.
        gpus: ids of those that Ray gave to it.
        shown_by: variables of the environment in which Ray says so.
        port: a free one.
        source: digest of the code that is installed there.
    """

    node: str
    address: str
    gpus: tuple[str, ...] = ()
    shown_by: tuple[str, ...] = ()
    port: int = 0
    source: str = ""


Target = Callable[[list[str]], int]
"""What every process runs: a function of arguments that returns 0 when all is well, as a command does."""


def run_ranks(
    target: Target,
    arguments: Sequence[str],
    workers: int,
    *,
    gpus_per_worker: int = 0,
    cpus_per_worker: float = 1,
    placement: Placement = "pack",
    environment: Mapping[str, str] | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Run `target(arguments)` in so many processes of the cluster that this process has joined.

    Args:
        target: a function at the top of a module that every node can import.
        arguments: given to each.
        workers: how many processes.
        gpus_per_worker: whole GPUs of each; a process sees all that its node's processes have, and takes the
            one of its LOCAL_RANK.
        cpus_per_worker: cores of each.
        placement: `pack` on as few nodes as can be, `spread` over as many.
        environment: variables that every process has from its start.
        report: gets every line that a process prints, and who it is.

    Raises:
        ClusterUnavailable: the cluster has no room for them, or nodes with another Orchard.
        RankFailed: a process failed or died.
    """
    import ray

    bundle = {"CPU": cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    group = ray.util.placement_group([bundle] * workers, strategy=placement.upper())
    actors: list[Any] = []
    try:
        if not group.wait(PLACES_SECONDS):
            raise ClusterUnavailable(
                f"the cluster has no room for {workers} processes with {cpus_per_worker:g} CPU and "
                f"{gpus_per_worker} GPU each within {PLACES_SECONDS:.0f} s; free are "
                f"{ {name: ray.available_resources().get(name, 0) for name in ('CPU', 'GPU')} }"
            )
        options = {
            "num_cpus": cpus_per_worker,
            "num_gpus": gpus_per_worker,
            "max_restarts": 0,
            "runtime_env": {"env_vars": dict(environment or {})},
        }
        actors = [_actor(group, place, options) for place in range(workers)]
        places: list[RankPlace] = ray.get([actor.place.remote() for actor in actors], timeout=PLACES_SECONDS)
        environments = rank_environments(places)
        if strangers := {place.address for place in places if place.source != source_digest()}:
            raise ClusterUnavailable(
                f"other code than here is installed on {', '.join(sorted(strangers))}; install the same "
                "Orchard on every node, or restart the cluster after a deploy"
            )
        report(f"ray: {workers} processes on {', '.join(sorted({place.address for place in places}))}")
        outputs = {
            actor.run.options(num_returns="streaming").remote(
                target, list(arguments), environment
            ): environment
            for actor, environment in zip(actors, environments, strict=True)
        }
        _follow(outputs, report)
    finally:
        for actor in actors:
            ray.kill(actor)
        ray.util.remove_placement_group(group)


def rank_environments(places: Sequence[RankPlace]) -> list[dict[str, str]]:
    """What torchrun would put into each process's environment; processes of one node have ranks in a row.

    Where every process is on the loopback interface, gloo is told to listen there and nowhere else.
    """
    nodes = list(dict.fromkeys(place.node for place in places))
    order = sorted(range(len(places)), key=lambda index: (nodes.index(places[index].node), index))
    first = places[order[0]]
    shared = {"WORLD_SIZE": str(len(places)), "MASTER_ADDR": first.address, "MASTER_PORT": str(first.port)}
    if all(place.address in LOOPBACK_NAMES for place in places):
        shared["GLOO_SOCKET_IFNAME"] = next(
            name for _, name in socket.if_nameindex() if name in ("lo", "lo0")
        )
    found: list[dict[str, str]] = [{} for _ in places]
    for rank, index in enumerate(order):
        mates = [other for other in order if places[other].node == places[index].node]
        found[index] = shared | {
            "RANK": str(rank),
            "LOCAL_RANK": str(mates.index(index)),
            "LOCAL_WORLD_SIZE": str(len(mates)),
        }
        visible = ",".join(gpu for mate in mates for gpu in places[mate].gpus)
        found[index] |= dict.fromkeys(places[index].shown_by, visible)
    return found


def _actor(group: Any, place: int, options: Mapping[str, Any]) -> Any:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
    remote: Any = ray.remote  # its overloads do not know these options
    return remote(**options, scheduling_strategy=strategy)(_Rank).remote()


def _follow(outputs: Mapping[Any, Mapping[str, str]], report: Callable[[str], None]) -> None:
    """Report what the processes print until all have ended; raise for the first that fails."""
    import ray
    from ray.exceptions import RayError

    waiting: list[Any] = list(outputs)
    while waiting:
        ready: list[Any] = ray.wait(waiting, num_returns=1, fetch_local=False)[0]
        for output in ready:
            rank = outputs[output]["RANK"]
            try:
                line, failed = ray.get(next(output))
            except StopIteration:
                waiting.remove(output)
                continue
            except RayError as error:
                raise RankFailed(
                    f"process {rank} of the training died ({_first_line(error)}); all others were ended. "
                    "Start it again: it goes on from its last state"
                ) from error
            if failed:
                raise RankFailed(
                    f"process {rank} of the training failed, and all others were ended: {line}\n"
                    "Start it again: it goes on from its last state"
                )
            report(line if rank == "0" else f"[{rank}] {line}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class _Rank:
    """One process of the training: an actor."""

    def place(self) -> RankPlace:
        import ray

        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((address, 0))
            port = free.getsockname()[1]
        gpus = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", ()))
        shown_by = tuple(name for name in VISIBLE_GPUS if gpus and os.environ.get(name) == ",".join(gpus))
        return RankPlace(context.get_node_id(), address, gpus, shown_by, port, source_digest())

    def run(
        self, target: Target, arguments: list[str], environment: Mapping[str, str]
    ) -> Iterator[tuple[str, bool]]:
        """Yield every line that is printed; the last one, marked, says why where it failed."""
        os.environ.update(environment)  # before torch is imported
        said: SimpleQueue[tuple[str, bool] | None] = SimpleQueue()

        def work() -> None:
            lines = _Lines(said)
            try:
                with redirect_stdout(lines), redirect_stderr(lines):
                    code = target(arguments)
            except BaseException:
                said.put((traceback.format_exc().strip(), True))
            else:
                if code:
                    said.put((f"it ended with code {code}, see above", True))
            finally:
                said.put(None)

        threading.Thread(target=work, name="training", daemon=True).start()
        while (item := said.get()) is not None:
            yield item


class _Lines(TextIOBase):
    """A stream that hands whole lines over."""

    def __init__(self, said: SimpleQueue[tuple[str, bool] | None]) -> None:
        self._said, self._rest = said, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._said.put((line, False))
        return len(text)
