"""Finding the row that kills the process which computes it, when all that is known are deaths.

A process may die for reasons of its own: its node went away, the system ran out of memory, somebody ended it.
So a first death costs one more try, in which results are committed often and every batch is heard of for
certain before it is computed. The batch at which a process dies then is computed apart, and halved with every
further death, until one row of one stage has killed a process while it was alone in there. That row is
condemned, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

UNEXPLAINED_DEATHS = 5
"""So many processes dying of one shard, without a row that kills by itself, are a fault elsewhere."""


@dataclass(frozen=True)
class Probe:
    """Stages, upstream first, and the only rows that a process is to compute of them."""

    stages: tuple[str, ...]
    rows: frozenset[int]


@dataclass
class LethalRows:
    """What to compute of a shard after processes died of it.

    `order` are the stages of the pass, upstream first; `condemned` holds (stage, row) of what was found.
    `is_careful` is true since a process died of the shard: results are to be committed often, and a batch is
    to be told before it is computed.
    """

    order: tuple[str, ...]
    condemned: list[tuple[str, int]] = field(default_factory=list)
    is_careful: bool = False
    _probes: list[Probe] = field(default_factory=list)
    _unexplained: int = 0

    @property
    def probe(self) -> Probe | None:
        """What to compute next, None for everything that is stale."""
        return self._probes[-1] if self._probes else None

    @property
    def is_hopeless(self) -> bool:
        """Whether processes keep dying without a row being the reason."""
        return not self._probes and self._unexplained >= UNEXPLAINED_DEATHS

    def survived(self) -> None:
        """A process came through what it was given."""
        if self._probes:
            self._probes.pop()

    def died(self, stage: str, rows: Iterable[int]) -> None:
        """A process died by itself; these rows, as far as was heard, it was computing in this stage then.

        What was heard is certain only once `is_careful` was true for the process.
        """
        if self._probes:
            self._split(self._probes.pop())
            return
        here = frozenset(rows)
        if self.is_careful and here:
            self._probes.append(Probe(self.order[: self.order.index(stage) + 1], here))
        self.is_careful = True
        self._unexplained += 1

    def _split(self, probe: Probe) -> None:
        """Smaller probes in the place of one that killed; a single row of a single stage is condemned."""
        rows = sorted(probe.rows)
        if len(rows) > 1:
            half = len(rows) // 2
            parts = [Probe(probe.stages, frozenset(part)) for part in (rows[:half], rows[half:])]
        elif len(probe.stages) > 1:
            # what was heard last may be of a stage before the one that killed: only one at a time is proof
            parts = [Probe((stage,), probe.rows) for stage in probe.stages]
        else:
            self.condemned += [(stage, rows[0]) for stage in probe.stages]
            self._unexplained = 0
            return
        self._probes += reversed(parts)
