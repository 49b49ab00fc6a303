"""Compile the renderer for this machine: `python -m models.worlds.compiled`.

The first picture on a machine takes half a minute of compiling; every later process loads the machine code.
Run once before many processes start that would all compile at the same time.
"""

from __future__ import annotations

from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import render


def main() -> None:
    """Render one small picture."""
    render(sample_identities(0, 1), sample_attributes(0, 1), size=16, supersample=1, workers=1)


if __name__ == "__main__":
    main()
