"""The marks of a made clip: one of the whole file, and one beside every picture.

- The file carries the XMP packet of pictures in a top-level `uuid` box, where the XMP standard puts it.
- Every picture carries a sentence as "user data, unregistered" of its supplemental enhancement information
  (SEI, H.264 annex D), which is part of the compressed picture and stays through every copy without
  re-encoding: cut, joined, put into another container. Re-encoding drops it.

Neither touches a pixel. Sources: XMP specification part 3 (MPEG-4 files); ISO 14496-12
(boxes); H.264, 7.3.2.3.
"""

from __future__ import annotations

import re
import struct
import uuid
from pathlib import Path

import av
from av.sidedata.sidedata import Type as SideDataType

from resources.photos.marking import DIGITAL_SOURCE_TYPE, NAMESPACE, Mark, mark_of_packet, xmp_packet
from resources.video.reading import side_data

XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""Extended type of the box that holds XMP."""

SEI_ID = uuid.uuid5(uuid.NAMESPACE_URL, NAMESPACE).bytes
"""Whose user data it is: ours."""

_SEI, _USER_DATA, _STOP = 6, 5, 0x80


def append_mark(path: Path, mark: Mark) -> None:
    """Append the box with the mark to a finished MP4 file."""
    packet = xmp_packet(mark)
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", XMP_BOX) + packet)


def read_clip_mark(path: Path) -> Mark | None:
    """The mark of an MP4 file; None where it carries none of ours.

    Raises MarkError where a mark of ours is broken, ValueError where the file is not made of boxes.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        place = 0
        while place < size:
            file.seek(place)
            head = file.read(16)
            if len(head) < 8:
                raise ValueError(f"{path} ends inside a box")
            length, header = int.from_bytes(head[:4]), 8
            if length == 1:
                length, header = int.from_bytes(head[8:16]), 16
            length = length or size - place
            if length < header or place + length > size:
                raise ValueError(f"{path} is no MP4 file, or is cut: a box reaches beyond its end")
            if head[4:8] == b"uuid":
                file.seek(place + header)
                body = file.read(length - header)
                if body[:16] == XMP_BOX and (mark := mark_of_packet(body[16:])) is not None:
                    return mark
            place += length
    return None


def comment_of(mark: Mark) -> str:
    """What players and `ffprobe` show as the clip's comment."""
    return (
        f"Made by {mark.creator_tool} ({mark.stage}, model {mark.model_id}); digitalSourceType "
        f"{DIGITAL_SOURCE_TYPE}; consent: {mark.consent}"
    )


def frame_note(mark: Mark, *, swapped: bool) -> str:
    """What stands beside a picture of the clip."""
    what = "swapped" if swapped else "unchanged"
    return f"{NAMESPACE} {what} by {mark.creator_tool} model {mark.model_id} {DIGITAL_SOURCE_TYPE}"


def note_unit(note: str) -> bytes:
    """A note as an SEI unit with its start code, to stand before an H.264 picture."""
    payload = SEI_ID + note.encode()
    size = bytes([255] * (len(payload) // 255) + [len(payload) % 255])
    body = bytes([_USER_DATA]) + size + payload + bytes([_STOP])
    # three bytes that look like a start code are broken up, as the standard asks
    return b"\0\0\0\1" + bytes([_SEI]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", body)


def read_frame_notes(path: Path) -> list[str | None]:
    """The note beside every picture of a clip, in the order of showing; None where there is none of ours."""
    found: list[str | None] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            notes = side_data(frame, SideDataType.SEI_UNREGISTERED)
            ours = [note[16:].decode() for note in notes if note[:16] == SEI_ID]
            found.append(ours[0] if ours else None)
    return found
