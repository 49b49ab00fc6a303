"""The mark inside every picture that Orchard makes: an XMP packet that says what it is and whence it came.

The packet holds the IPTC digital source type *composite with trained algorithmic media*, the creator tool,
and in a namespace of our own the model, stage, both photographs and the statement of consent. It is what
editors, viewers and platforms read; it is no signature and no watermark, and whoever wants to can strip it.
C2PA signing belongs after this step, since it binds the bytes.

The bytes depend on pixels and mark alone: no time, host or user enters.

Sources: IPTC Photo Metadata Standard 2025.1 (DigitalSourceType), ISO 16684-1 (XMP), XMP part 3 (embedding).
"""

from __future__ import annotations

import io
import re
from typing import Annotated
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, PngImagePlugin
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC term for a picture composed of captured and machine-made parts."""

NAMESPACE = "urn:orchard-faces:mark:1/"
"""XML namespace of our own fields. It changes when their meaning does."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"

_FIELDS = {
    "ModelId": "model_id",
    "Stage": "stage",
    "SourceImageId": "source_image_id",
    "TargetImageId": "target_image_id",
    "Consent": "consent",
}
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class MarkError(ValueError):
    """A picture carries a mark of ours that cannot be read: it was edited or cut."""


def _xml_text(value: str) -> str:
    if found := _NOT_XML.search(value):
        raise ValueError(f"the character {found[0]!r} cannot stand in XML; escape it first")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_xml_text)]


class Mark(BaseModel):
    """What a made picture says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Text = Field(max_length=64, description="Version of Orchard, as in its package metadata.")
    model_id: Text = Field(
        max_length=256, description="Content digest of the checkpoint that made the picture."
    )
    stage: Text = Field(max_length=64, description="Stage of the DAG that made it, such as `swaps`.")
    source_image_id: Text = Field(max_length=4096, description="Photograph that gave the identity.")
    target_image_id: Text = Field(max_length=4096, description="Photograph that gave everything else.")
    consent: Text = Field(
        max_length=8192, description="Statement of consent or licence for both photographs."
    )

    @property
    def creator_tool(self) -> str:
        """The value of `xmp:CreatorTool`."""
        return f"Orchard {self.version}"


def xmp_packet(mark: Mark) -> bytes:
    """The XMP packet of a mark, UTF-8, read-only form (no padding)."""
    fields = "".join(
        f"   <orchard:{name}>{_escaped(getattr(mark, attribute))}</orchard:{name}>\n"
        for name, attribute in _FIELDS.items()
    )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        f' <rdf:RDF xmlns:rdf="{_RDF}">\n'
        f'  <rdf:Description rdf:about="" xmlns:xmp="{_XMP}" xmlns:Iptc4xmpExt="{_IPTC}" '
        f'xmlns:orchard="{NAMESPACE}">\n'
        f"   <Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>\n"
        f"   <xmp:CreatorTool>{_escaped(mark.creator_tool)}</xmp:CreatorTool>\n"
        f"{fields}"
        "  </rdf:Description>\n"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    ).encode()


def mark_png(image_HW3: np.ndarray, mark: Mark) -> bytes:
    """Encode upright RGB pixels as a marked PNG.

    Args:
        image_HW3: (height, width, 3) uint8.
        mark: what the picture says about itself.

    Raises:
        ValueError: another shape or type of pixels.
    """
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", xmp_packet(mark).decode())
    buffer = io.BytesIO()
    _picture(image_HW3).save(buffer, "PNG", pnginfo=chunks, compress_level=6)
    return buffer.getvalue()


def mark_jpeg(image_HW3: np.ndarray, mark: Mark, quality: int = 95) -> bytes:
    """Encode upright RGB pixels as a marked JPEG without chroma subsampling.

    Args:
        image_HW3: (height, width, 3) uint8.
        mark: what the picture says about itself.
        quality: libjpeg quality, 1..100.

    Raises:
        ValueError: another shape or type of pixels, or another quality.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be 1..100, not {quality}")
    buffer = io.BytesIO()
    picture = _picture(image_HW3)
    picture.save(buffer, "JPEG", quality=quality, subsampling=0, xmp=xmp_packet(mark))
    return buffer.getvalue()


def read_mark(data: bytes) -> Mark | None:
    """Read our mark from the bytes of a PNG, JPEG or WebP file; None where the picture carries none of ours.

    Raises:
        MarkError: a mark of ours is there, but broken or incomplete.
        OSError: `data` is no picture.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        packet = image.info.get("xmp")
        if packet is None and image.format == "PNG":
            image.load()  # PNG allows text after the picture data
            packet = image.info.get("xmp")
    return mark_of_packet(packet) if isinstance(packet, bytes) else None


def mark_of_packet(packet: bytes) -> Mark | None:
    """Our mark in an XMP packet of any file; None where it holds none. Raises MarkError as `read_mark`."""
    if NAMESPACE.encode() not in packet:
        return None
    # A packet of ours has no document type; refusing one rules out entity tricks in a foreign file.
    if b"<!DOCTYPE" in packet:
        raise MarkError("the mark holds a document type, which Orchard never writes")
    try:
        root = ElementTree.fromstring(packet.strip(b"\x00 \n"))
    except ElementTree.ParseError as error:
        raise MarkError(f"the mark is no well-formed XML: {error}") from error
    if root.findtext(f".//{{{_IPTC}}}DigitalSourceType") != DIGITAL_SOURCE_TYPE:
        raise MarkError("the mark does not name its digital source type")
    tool, _, version = (root.findtext(f".//{{{_XMP}}}CreatorTool") or "").partition(" ")
    if tool != "Orchard":
        raise MarkError(f"the mark names another creator tool, {tool!r}")
    values = {attribute: root.findtext(f".//{{{NAMESPACE}}}{name}") for name, attribute in _FIELDS.items()}
    try:
        return Mark.model_validate({"version": version, **values})
    except ValidationError as error:
        broken = sorted({str(part["loc"][0]) for part in error.errors()})
        raise MarkError(f"the mark lacks or garbles {', '.join(broken)}") from error


def _escaped(text: str) -> str:
    # XML parsers turn a bare carriage return into a line feed.
    return escape(text, {"\r": "&#13;"})


def _picture(image_HW3: np.ndarray) -> Image.Image:
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8 or not image_HW3.size:
        raise ValueError(f"(height, width, 3) uint8 is needed, not {image_HW3.shape} {image_HW3.dtype}")
    return Image.fromarray(np.ascontiguousarray(image_HW3))
