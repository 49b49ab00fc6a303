"""Which steps of the original process a shorter one visits: `"100"`, `"10,15,20"`, `"ddim25"`.

Source: improved DDPM (arXiv 2102.09672, section 4) and the spelling of its command line, which ADM, Blended
Diffusion and DiffFace share.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat

from models.diffface.schedule import NoiseSchedule

DDIM_PREFIX = "ddim"


def respaced(schedule: NoiseSchedule, respacing: str | Sequence[int]) -> NoiseSchedule:
    """A schedule that visits only some steps of `schedule`, each with its alpha_bar and original index.

    Args:
        schedule: usually `linear_schedule()`.
        respacing: see `spaced_steps`.

    Raises:
        ValueError: see `spaced_steps`.
    """
    return schedule.keeping(spaced_steps(len(schedule), respacing))


def spaced_steps(original_steps: int, respacing: str | Sequence[int]) -> list[int]:
    """The steps to visit, increasing.

    `"10,15,20"` (or a list of the counts) cuts the process into as many sections of equal length as there
    are counts, the first ones longer by one where it does not divide, and takes so many steps of each: its
    first, its last, and the others evenly between them, rounded. `"100"` is one section. `"ddim25"` takes
    every k-th step from 0, with the whole number k that gives exactly 25.

    Args:
        original_steps: length of the process.
        respacing: as above.

    Raises:
        ValueError: it is spelled otherwise, a section has fewer steps than are asked of it, none is asked at
            all, or no whole stride gives the number of DDIM steps.
    """
    if isinstance(respacing, str) and respacing.startswith(DDIM_PREFIX):
        return _strided(original_steps, _counts(respacing.removeprefix(DDIM_PREFIX), respacing))
    counts = _counts(respacing, respacing) if isinstance(respacing, str) else list(respacing)
    if not counts or min(counts) < 0 or not any(counts):
        raise ValueError(f"timestep_respacing {respacing!r} asks for no step; give counts such as 100")
    shortest, longer = divmod(original_steps, len(counts))
    steps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = shortest + (1 if section < longer else 0)
        if count > length:
            raise ValueError(
                f"timestep_respacing {respacing!r} asks for {count} of the {length} steps of section "
                f"{section + 1}; the whole process has {original_steps}"
            )
        steps += [start + offset for offset in _spread(length, count)]
        start += length
    return steps


def _counts(text: str, whole: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(
            f"timestep_respacing {whole!r} is neither a count (100), nor counts of sections (10,15,20), "
            f"nor {DDIM_PREFIX} and a count ({DDIM_PREFIX}25)"
        )
    return [int(part) for part in parts]


def _spread(length: int, count: int) -> list[int]:
    """`count` offsets from 0 to `length - 1`, evenly.

    The stride is added up in floating point, and halves go to the even neighbour: both decide single steps
    of some spacings, and published samples were made that way.
    """
    if count <= 1:
        return [0] * count
    stride = (length - 1) / (count - 1)
    return [round(offset) for offset in accumulate(repeat(stride, count - 1), initial=0.0)]


def _strided(original_steps: int, counts: list[int]) -> list[int]:
    if len(counts) == 1 and counts[0] >= 1:
        for stride in range(1, original_steps):
            steps = list(range(0, original_steps, stride))
            if len(steps) == counts[0]:
                return steps
    raise ValueError(
        f"no whole stride through {original_steps} steps gives {DDIM_PREFIX}{','.join(map(str, counts))}; "
        f"{DDIM_PREFIX}25, {DDIM_PREFIX}50 and {DDIM_PREFIX}100 work for 1000"
    )
