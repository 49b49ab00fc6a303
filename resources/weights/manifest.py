"""Every model file that Orchard uses, as data: source, exact content, licence, and what it was trained on.

A role is what the rest of the code asks for ("centerface"); the manifest says which file plays it.

`commercial_ok` repeats what the licence of the *weights* says, no more. `trained_on` stands beside it because
a permissive licence on weights does not settle the rights in the photographs behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from resources.weights.entries import WeightEntry
from resources.weights.packaged import PACKAGED
from resources.weights.published_annotation import ANNOTATION
from resources.weights.published_metrics import MEASURING
from resources.weights.published_swapping import SWAPPING

MANIFEST: Mapping[str, WeightEntry] = MappingProxyType(
    {entry.role: entry for entry in (*PACKAGED, *ANNOTATION, *SWAPPING, *MEASURING)}
)
"""The entries by role."""
