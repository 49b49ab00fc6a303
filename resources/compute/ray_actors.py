"""Warm actors: named, detached processes that keep what they have loaded from one run to the next.

An actor's name holds its role (the stages it computes) and a fingerprint that the caller gives: code,
config, weights, checkpoints, device. Whoever asks for the same again finds it warm; whoever asks for the
same role with another fingerprint, after a deploy, has the old ones reaped. Names are looked up in the
namespace of one lake.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from resources.compute.demand import StageResources
from resources.compute.ray_cluster import ClusterUnavailable

NAMESPACE = "orchard-"
"""How the namespaces of all lakes' actors begin."""

SEPARATOR = "::"
ANSWER_SECONDS = 10.0
"""How long an actor may take to say what it does; it answers while it computes."""


@dataclass(frozen=True)
class Role:
    """Which actors are wanted: alike in all that they load and take.

    `environment` are variables of the actors' processes. They and the resources are part of the fingerprint.
    """

    namespace: str
    name: str
    fingerprint: str
    resources: StageResources
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Short name of everything that decides what such an actor is."""
        facts = (self.fingerprint, self.resources.model_dump_json(), sorted(self.environment.items()))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def actor(self, index: int) -> NamedActor:
        """The actor of that number, whether there is one or not."""
        return NamedActor(self.namespace, SEPARATOR.join((self.name, self.key, str(index))))


@dataclass(frozen=True)
class About:
    """What an actor says of itself."""

    process: int
    host: str
    node: str
    busy: int
    idle_seconds: float


@dataclass(frozen=True)
class NamedActor:
    """An actor by its namespace and name."""

    namespace: str
    name: str

    @property
    def role(self) -> str:
        """The stages it computes."""
        return self.name.split(SEPARATOR)[0]

    @property
    def key(self) -> str:
        """Short name of what it has loaded."""
        return self.name.split(SEPARATOR)[1]

    @property
    def index(self) -> int:
        """Its number among those alike."""
        return int(self.name.split(SEPARATOR)[2])


class Host:
    """What runs in an actor's process: an object made there by a pickled function, and who is using it."""

    def __init__(self, factory: bytes) -> None:
        self._worker = pickle.loads(factory)()
        self._lock = threading.Lock()
        self._busy = 0
        self._since = time.monotonic()

    def stream(self, method: str, *arguments: Any) -> Iterator[Any]:
        """Items of one of the object's generators; an actor works on one such call at a time."""
        with self._lock:
            self._busy += 1
        try:
            yield from getattr(self._worker, method)(*arguments)
        finally:
            with self._lock:
                self._busy -= 1
                self._since = time.monotonic()

    def call(self, method: str, *arguments: Any) -> Any:
        """One of the object's short methods, beside whatever `stream` is at work on."""
        return getattr(self._worker, method)(*arguments)

    def about(self) -> About:
        """What it does at the moment."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return About(os.getpid(), socket.gethostname(), node, self._busy, time.monotonic() - self._since)


def pickled(thing: Any) -> bytes:
    """A function, or an object with functions in it, as bytes that `pickle.loads` takes in an actor."""
    from ray import cloudpickle

    # Ray's own copy, which its actors have too; it is documented, but its stubs name nothing of it
    return cloudpickle.dumps(thing)  # pyright: ignore[reportPrivateImportUsage]


def create(role: Role, index: int, factory: bytes) -> Any:
    """Handle of the actor of that name, made if there is none; it waits for its resources by itself."""
    asked = role.resources
    options: dict[str, Any] = {
        "name": role.actor(index).name,
        "namespace": role.namespace,
        "get_if_exists": True,
        "lifetime": "detached",
        "num_cpus": asked.num_cpus,
        "num_gpus": asked.num_gpus,
        # a process that died is made anew by whoever needs it, who must know that it died
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": dict(role.environment)},
    }
    if asked.memory_bytes is not None:
        options["memory"] = asked.memory_bytes
    return _actor_class().options(**options).remote(factory)


@cache
def _actor_class() -> Any:
    import ray

    remote: Any = ray.remote  # its overloads do not know these options

    # `call` and `about` have threads of their own: they answer while `stream` computes
    grouped = type("Host", (Host,), {})
    for name in ("call", "about"):
        method = getattr(Host, name)
        setattr(grouped, name, ray.method(concurrency_group="control")(_copied(method)))
    return remote(concurrency_groups={"control": 2})(grouped)


def _copied(method: Callable[..., Any]) -> Callable[..., Any]:
    def forwarded(self: Host, *arguments: Any) -> Any:
        return method(self, *arguments)

    forwarded.__name__ = method.__name__
    return forwarded


def named_actors(namespace: str | None = None) -> list[NamedActor]:
    """All actors of a namespace, or of all lakes, that live or wait for resources, sorted."""
    import ray.util

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    actors = (NamedActor(item["namespace"], item["name"]) for item in listed)
    found = (actor for actor in actors if actor.name.count(SEPARATOR) == 2)
    wanted = (
        actor
        for actor in found
        if (actor.namespace.startswith(NAMESPACE) if namespace is None else actor.namespace == namespace)
    )
    return sorted(wanted, key=lambda actor: (actor.namespace, actor.name))


def about(actors: Sequence[NamedActor], seconds: float = ANSWER_SECONDS) -> dict[NamedActor, About]:
    """What actors say of themselves; those that are not ready yet, or just died, are absent."""
    import ray
    from ray.exceptions import RayActorError

    asked = {}
    for actor in actors:
        handle = find(actor)
        if handle is not None:
            asked[handle.about.remote()] = actor
    found = {}
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds) if asked else ([], [])
    for reference in ready:
        try:
            found[asked[reference]] = ray.get(reference)
        except RayActorError:
            continue
    return found


def find(actor: NamedActor) -> Any:
    """Handle of a named actor, None if there is none."""
    import ray

    try:
        return ray.get_actor(actor.name, namespace=actor.namespace)
    except ValueError:
        return None


def end(actors: Sequence[NamedActor]) -> None:
    """End actors, whatever they are doing."""
    import ray

    for actor in actors:
        handle = find(actor)
        if handle is not None:
            ray.kill(handle, no_restart=True)


def reap(actors: Sequence[NamedActor], seconds: float = ANSWER_SECONDS) -> list[NamedActor]:
    """End those of the actors that are idle, and return them."""
    found = about(actors, seconds)
    idle = [actor for actor in actors if actor in found and not found[actor].busy]
    end(idle)
    return idle


def reap_outdated(role: Role) -> list[NamedActor]:
    """End actors of the same role that have something else loaded, unless they are at work; returns them."""
    others = named_actors(role.namespace)
    return reap([actor for actor in others if actor.role == role.name and actor.key != role.key])


def require_node(resources: StageResources, purpose: str) -> int:
    """How many processes of that kind the whole cluster can hold at once.

    Raises ClusterUnavailable when no node could ever hold one, whatever ends there.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(fitting(resources, node) for node in nodes)
    if not count:
        have = "; ".join(
            f"{node.get('GPU', 0):g} GPU, {node.get('CPU', 0):g} CPU, {node.get('memory', 0) / 2**30:.1f} GiB"
            for node in nodes
        )
        raise ClusterUnavailable(
            f"{purpose} asks for {resources.told()} on one node, and no node of the Ray cluster has that "
            f"({have}). Add such a node, change the stage's resources in the profile, or say --device cpu to "
            "run without GPUs"
        )
    return count


def fitting(resources: StageResources, node: Mapping[str, float]) -> int:
    """How many processes of that kind a node with these resources holds."""
    asked = {"GPU": resources.num_gpus, "CPU": resources.num_cpus, "memory": resources.memory_bytes or 0}
    counts = [int(node.get(name, 0) / amount + 1e-6) for name, amount in asked.items() if amount]
    return min(counts, default=os.cpu_count() or 1)
