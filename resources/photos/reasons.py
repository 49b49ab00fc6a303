"""Why a row is quarantined: the one list of reasons that every stage of Orchard shares.

A reason is stored as its lower-case value in the `<stage>_state` column, shown in reports and counted by the
asset checks. New code never invents a reason string: it adds a member here, with its meaning.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A typed quarantine reason: `str(reason)` is the stored value, `reason.meaning` one sentence."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Reason:
        """Make a member whose value is `value` and that carries its own explanation."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    EMPTY = "empty", "The file has no bytes at all."
    NOT_AN_IMAGE = "not_an_image", "The first bytes belong to no picture format that we know."
    UNSUPPORTED_FORMAT = "unsupported_format", "A picture, but in a format that is not on the allowed list."
    TRUNCATED = "truncated", "The file ends before its picture does."
    UNDECODABLE = "undecodable", "All bytes seem to be there, yet they do not decode to a picture."
    ANIMATED = "animated", "The file holds several frames; a photograph has one."
    TOO_LARGE = "too_large", "More bytes or pixels than the limits allow, or more memory to decode them."
    TOO_SLOW = "too_slow", "Decoding takes longer, or more passes or parts, than the limits allow."
    DECODER_DIED = "decoder_died", "The process that decoded the file crashed or was killed."
    TOO_SMALL = "too_small", "A side of the picture is shorter than the limits allow."
    UNREADABLE = (
        "unreadable",
        "The file system would not hand over the bytes (permission, I/O error, dead link).",
    )
    DUPLICATE_ID = "duplicate_id", "Another photograph already owns the image id that this file's name gives."
    NO_FACE = "no_face", "The detector found no face."
    SEVERAL_FACES = "several_faces", "More than one face, and the policy wants exactly one."
    FACE_TOO_SMALL = "face_too_small", "The face covers too few pixels for the models after it."
    EXTREME_POSE = "extreme_pose", "The head is turned further than the profile accepts."
    LOW_QUALITY = "low_quality", "The photograph scores below the profile's quality floor."
    NON_FINITE = "non_finite", "A model returned NaN or infinity for this row."
    POLICY = "policy", "A rule about use forbids the row: consent, removal list, licence or content."
    UPSTREAM = "upstream", "A stage that this one depends on quarantined the row."
    MODEL_ERROR = "model_error", "The model raised an error on this row alone."
    OUT_OF_MEMORY = "out_of_memory", "This row alone needs more memory than its device has."
    PROCESS_DIED = "process_died", "The process that computed this row, alone at last, died of it."


class RowError(Exception):
    """One row cannot be processed; its batch goes on without it.

    Attributes:
        reason: the typed reason, stored with the row.
        detail: what exactly was wrong, for people. Stored too, so it must not hold machine paths.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # both as args: the error must survive pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
