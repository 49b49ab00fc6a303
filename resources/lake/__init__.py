"""The lake: Lance tables under one URI, the only truth about every row of every stage.

`table.py` reads and writes rows, `commit.py` is the only code that commits a column group,
`ingest.py` brings photographs in, `lake.py` keeps the register of releases, checkpoints and evaluations.
"""

import os

# Lance warns at every DataReplacement that the operation is young; commit.py checks what Lance does not.
os.environ.setdefault("LANCE_LOG", "error")

from resources.lake.lake import Lake, LakeError
from resources.lake.schema import Column, Status
from resources.lake.table import LakeTable, Snapshot

__all__ = ["Column", "Lake", "LakeError", "LakeTable", "Snapshot", "Status"]
