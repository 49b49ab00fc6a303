"""Arrow's compute functions, typed as what they are: made at import time, unknown to a type checker."""

from __future__ import annotations

from typing import Any

import pyarrow.compute

compute: Any = pyarrow.compute
