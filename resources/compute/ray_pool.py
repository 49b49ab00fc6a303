"""Tasks on warm actors, one at a time on each; their items and their deaths are told as they come.

A pool knows nothing of what its tasks are. It finds or makes actors of one role, gives a task to a free one,
and says what became of it. An actor that died is replaced when there is work for it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resources.compute import ray_actors
from resources.compute.ray_actors import Role
from resources.compute.ray_cluster import ClusterUnavailable

PLACE_SECONDS = 600.0
"""How long a pool without any actor waits for one, while others hold what it needs, before it gives up."""

SHARE_SECONDS = 5.0
"""How long it waits for an actor of its own before it shares one that works for others."""

TELL_SECONDS = 15.0
"""How often it says what it is waiting for."""

ON_PURPOSE = "ray.kill"
"""How Ray names the death of an actor that somebody ended: that was no fault of the task."""


@dataclass(frozen=True)
class Told:
    """A task's next item."""

    task: str
    item: Any


@dataclass(frozen=True)
class Ended:
    """A task went through all its items."""

    task: str


@dataclass(frozen=True)
class Lost:
    """The actor of a task died before the task's end. `blame`: its process died by itself."""

    task: str
    why: str
    blame: bool


Event = Told | Ended | Lost


class ActorGone(RuntimeError):
    """The actor that was asked has died."""


@dataclass
class _Member:
    """An actor of the pool, and the task that it works on."""

    index: int
    handle: Any
    ready: Any
    node: str = ""
    task: str | None = None
    stream: Any = None


class ActorPool:
    """Up to `size` actors of one role; each works on at most one task of this pool at a time.

    Other drivers may use the same actors: those that are idle are taken first, and one that is not works on
    our task after theirs.

    Raises ClusterUnavailable when no node could ever hold such an actor, and when none could be placed for
    `PLACE_SECONDS`.
    """

    def __init__(
        self, role: Role, factory: bytes, size: int | None, tasks: int, report: Callable[[str], None]
    ) -> None:
        self.role, self._factory, self._report = role, factory, report
        possible = ray_actors.require_node(role.resources, role.name)
        self.most = possible if size is None else min(size, possible)
        self.size = max(1, min(tasks, self.most))
        reaped = ray_actors.reap_outdated(role)
        if reaped:
            report(f"ray: ended {len(reaped)} processes of {role.name} that had other code or weights loaded")
        self._members: list[_Member] = []
        self._workers: dict[str, Any] = {}
        self._waiting_since = time.monotonic()
        self._told = self._waiting_since
        self._fill()

    def free(self) -> bool:
        """Whether an actor that is ready has nothing to do; makes or awaits some where there are too few."""
        if len(self._members) < self.size:
            self._fill()
        self._welcome()
        if any(member.ready for member in self._members):
            self._make_room()
        return any(member.stream is None and not member.ready for member in self._members)

    def submit(self, task: str, method: str, *arguments: Any, in_step: bool = False) -> None:
        """Start a task on a free actor, the one with the least to do for others.

        `in_step` lets it go on after an item only when that was told here: what was told last is then
        certain, even if the actor dies in the next moment.
        """
        free = [member for member in self._members if member.stream is None and not member.ready]
        if len(free) > 1:
            actors = [self.role.actor(member.index) for member in free]
            busy = {actor.index: about.busy for actor, about in ray_actors.about(actors, 2.0).items()}
            free.sort(key=lambda member: busy.get(member.index, len(self._members)))
        chosen = free[0]
        chosen.task, self._workers[task] = task, chosen.handle
        options = {"_generator_backpressure_num_objects": 1} if in_step else {}
        stream = chosen.handle.stream.options(num_returns="streaming", **options)
        chosen.stream = stream.remote(method, *arguments)

    def ask(self, task: str, method: str, *arguments: Any) -> Any:
        """Call a short method of the actor that worked last on a task. Raises ActorGone when it has died."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(self._workers[task].call.remote(method, *arguments))
        except RayActorError as error:
            raise ActorGone(_short(str(error))) from error
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def tell(self, task: str, method: str, *arguments: Any) -> None:
        """Call such a method without waiting for it."""
        self._workers[task].call.remote(method, *arguments)

    def events(self, seconds: float) -> list[Event]:
        """What happened, after at most so many seconds of waiting."""
        import ray

        streams = {id(member.stream): member for member in self._members if member.stream is not None}
        if not streams:
            time.sleep(min(seconds, 0.1))
            return []
        asked = [member.stream for member in streams.values()]
        ready, _ = ray.wait(asked, num_returns=1, timeout=seconds)
        if ready:  # whatever else is there already
            ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
        return [self._next(streams[id(stream)]) for stream in ready]

    def close(self) -> None:
        """Leave the actors that are warm, and take back the wish for those that never became ready."""
        self._welcome()
        ray_actors.end([self.role.actor(member.index) for member in self._members if member.ready])

    def _next(self, member: _Member) -> Event:
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

        task = member.task
        assert task is not None  # as all with a stream
        try:
            return Told(task, ray.get(next(member.stream)))
        except StopIteration:
            member.stream = None
            return Ended(task)
        except RayActorError as error:
            self._members.remove(member)
            if isinstance(error, ActorUnavailableError):
                # a node that has just gone: nobody has missed it yet
                return Lost(task, f"it cannot be reached: {_short(str(error))}", blame=False)
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            why = str(error).strip()
            if member.node not in alive:
                return Lost(task, f"the node it ran on is gone: {_short(why)}", blame=False)
            return Lost(task, _short(why), blame=ON_PURPOSE not in why)
        except RayTaskError as error:
            member.stream = None
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def _fill(self) -> None:
        """Take idle actors first, make new ones, and share busy ones only where there may be no more."""
        alike = [item for item in ray_actors.named_actors(self.role.namespace) if item.key == self.role.key]
        known, mine = {actor.index for actor in alike}, {member.index for member in self._members}
        found = ray_actors.about([actor for actor in alike if actor.index not in mine], 2.0)
        idle = sorted(actor.index for actor, about in found.items() if not about.busy)
        taken = idle[: self.size - len(mine)]
        free = (index for index in range(self.most) if index not in known and index not in mine)
        while len(mine) + len(taken) < self.size:
            index = next(free, None)
            if index is None:
                break
            taken.append(index)
        for index in taken:
            self._add(index)
        if not self._members:
            self._share()

    def _share(self) -> bool:
        """Take an actor that works for others; whether there was one."""
        mine = {member.index for member in self._members if not member.ready}
        named = ray_actors.named_actors(self.role.namespace)
        alike = [actor for actor in named if actor.key == self.role.key and actor.index not in mine]
        for actor in ray_actors.about(alike, 2.0):
            self._members = [member for member in self._members if member.index != actor.index]
            self._add(actor.index)
            return True
        return False

    def _add(self, index: int) -> None:
        handle = ray_actors.create(self.role, index, self._factory)
        self._members.append(_Member(index, handle, ready=[handle.about.remote()]))

    def _welcome(self) -> None:
        """See which of the actors that were asked for are there by now."""
        import ray
        from ray.exceptions import RayActorError

        for member in [member for member in self._members if member.ready]:
            done, _ = ray.wait(member.ready, timeout=0)
            if not done:
                continue
            try:
                member.node = ray.get(done[0]).node
            except RayActorError as error:
                self._members.remove(member)
                if getattr(error, "actor_init_failed", False):
                    raise ClusterUnavailable(
                        f"{self.role.name}: its process could not be made ready: {str(error).strip()}"
                    ) from error
                continue
            member.ready = None
            self._waiting_since = time.monotonic()

    def _others(self) -> list[ray_actors.NamedActor]:
        """Actors that are not of this pool's role."""
        mine = (self.role.namespace, self.role.name)
        return [actor for actor in ray_actors.named_actors() if (actor.namespace, actor.role) != mine]

    def _make_room(self) -> None:
        """Some actors wait for resources: end idle ones of other roles that hold them, or tell."""
        import ray

        waited = time.monotonic() - self._waiting_since
        left = ray.available_resources()
        if waited < 1.0 or ray_actors.fitting(self.role.resources, left):
            return  # there is room, so they are being started
        others = self._others()
        ended = ray_actors.reap([item for item in others if item.namespace == self.role.namespace], 2.0)
        nobody = all(member.ready for member in self._members)
        if not ended and nobody:
            ended = ray_actors.reap(others, 2.0)
        if ended:
            self._report(f"ray: ended {len(ended)} idle processes of other work: room for {self.role.name}")
        if ended or not nobody or (waited > SHARE_SECONDS and self._share()):
            return
        asked = self.role.resources.told()
        if waited > PLACE_SECONDS:
            raise ClusterUnavailable(
                f"no process of {self.role.name} could be placed within {PLACE_SECONDS:.0f} s: each takes "
                f"{asked}; other work holds all but {left.get('GPU', 0):g} GPU, {left.get('CPU', 0):g} CPU"
            )
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._report(f"ray: {self.role.name} waits for {asked}, which other work holds")


def _short(text: str) -> str:
    """What Ray says of a death, without its advice."""
    told = [line.strip() for line in text.splitlines() if "actor is dead" in line or "exit type" in line]
    return (told[-1] if told else text.splitlines()[0])[:300]
