"""A procedural world of faces with exact face-swap ground truth."""

from models.worlds.parameters import Attributes, Identities
from models.worlds.sampling import sample_attributes, sample_identities
from models.worlds.world import WORLD_VERSION, RenderedFaces, render

__all__ = [
    "WORLD_VERSION",
    "Attributes",
    "Identities",
    "RenderedFaces",
    "render",
    "sample_attributes",
    "sample_identities",
]
