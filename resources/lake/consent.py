"""Why a photograph may be used, recorded per row at ingest."""

from __future__ import annotations

from enum import StrEnum


class Consent(StrEnum):
    """The basis on which a photograph is in the lake."""

    UNKNOWN = "unknown"
    """Nobody said. Annotated like any other, never trained on and never swapped."""
    SYNTHETIC = "synthetic"
    """A rendered face of nobody."""
    SUBJECT_CONSENTED = "subject_consented"
    """The person shown has agreed to training and swapping."""
    DATASET_LICENCE = "dataset_licence"
    """A research data set whose licence permits this use; the licence is the user's to check."""
    ANNOTATION_ONLY = "annotation_only"
    """May be detected and annotated, never trained on or swapped (e.g. public-domain portraits)."""


GENERATIVE_CONSENTS = frozenset({Consent.SYNTHETIC, Consent.SUBJECT_CONSENTED, Consent.DATASET_LICENCE})
"""Only rows with one of these are trained on, used as a source, or used as a target."""
