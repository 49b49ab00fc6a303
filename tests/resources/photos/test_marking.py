"""The mark: what is written is found again by our reader, by a plain XML parser and by Pillow."""

from __future__ import annotations

import io
import re
from xml.dom import minidom

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from resources.photos.decoding import decode_upright
from resources.photos.marking import (
    DIGITAL_SOURCE_TYPE,
    NAMESPACE,
    Mark,
    MarkError,
    mark_jpeg,
    mark_png,
    read_mark,
    xmp_packet,
)

MARK = Mark(
    version="0.1.0",
    model_id="3f" * 32,
    stage="swaps",
    source_image_id="w000001/0001_01",
    target_image_id='a & b/<i>"quoted"\'</i>]]>',
    consent="Synthetic person.\r\nÉ 漢字 😀 & no one else's face.",
)
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def only_text(document: minidom.Document, namespace: str, name: str) -> str:
    (element,) = document.getElementsByTagNameNS(namespace, name)
    return "".join(node.data for node in element.childNodes)  # type: ignore[union-attr]  # text nodes only


def test_marks_are_read_back_and_pixels_kept() -> None:
    png, jpeg = mark_png(PIXELS, MARK), mark_jpeg(PIXELS, MARK)
    assert read_mark(png) == MARK
    assert read_mark(jpeg) == MARK
    np.testing.assert_array_equal(decode_upright(png), PIXELS)
    assert np.abs(decode_upright(jpeg).astype(int) - PIXELS).mean() < 6


def test_bytes_depend_on_pixels_and_mark_alone() -> None:
    for encode in (mark_png, mark_jpeg):
        assert encode(PIXELS, MARK) == encode(PIXELS[:, ::-1].copy()[:, ::-1], MARK)
        assert encode(PIXELS, MARK) != encode(PIXELS, MARK.model_copy(update={"stage": "student"}))


@pytest.mark.parametrize("encode", [mark_png, mark_jpeg])
def test_a_plain_xml_parser_finds_the_standard_fields(encode: object) -> None:
    data = (mark_png if encode is mark_png else mark_jpeg)(PIXELS, MARK)
    # Packets are found in a file by their processing instructions, without knowing its format (XMP part 3).
    (packet,) = re.findall(rb"<\?xpacket begin=.*?<\?xpacket end=\"r\"\?>", data, re.DOTALL)
    document = minidom.parseString(packet)
    iptc = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    assert only_text(document, iptc, "DigitalSourceType") == DIGITAL_SOURCE_TYPE
    assert DIGITAL_SOURCE_TYPE.endswith("/digitalsourcetype/compositeWithTrainedAlgorithmicMedia")
    assert only_text(document, "http://ns.adobe.com/xap/1.0/", "CreatorTool") == "Orchard 0.1.0"
    assert only_text(document, NAMESPACE, "TargetImageId") == MARK.target_image_id
    assert only_text(document, NAMESPACE, "Consent") == MARK.consent


def test_pillow_reads_the_packet() -> None:
    for data in (mark_png(PIXELS, MARK), mark_jpeg(PIXELS, MARK)):
        with Image.open(io.BytesIO(data)) as image:
            assert image.info["xmp"] == xmp_packet(MARK)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1))
def test_any_text_survives(text: str) -> None:
    mark = MARK.model_copy(update={"consent": text})
    assert read_mark(mark_png(PIXELS[:1, :1], mark)) == mark


def test_other_pictures_carry_no_mark() -> None:
    for options in ({}, {"xmp": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"}, {"xmp": b"no xml at all"}):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, "JPEG", **options)
        assert read_mark(buffer.getvalue()) is None
    with pytest.raises(OSError, match="cannot identify"):
        read_mark(b"no picture")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<orchard:Consent>", b"<orchard:Consens>", "well-formed"),
        (b"compositeWithTrained", b"", "digital source type"),
        (b">Orchard 0.1.0<", b">Brush 0.1.0<", "another creator tool"),
        (b">swaps<", b"><", "lacks or garbles stage"),
        (b"<x:xmpmeta", b"<!DOCTYPE x><x:xmpmeta", "document type"),
    ],
)
def test_tampered_marks_are_errors(old: bytes, new: bytes, message: str) -> None:
    packet = xmp_packet(MARK)
    assert old in packet
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", xmp=packet.replace(old, new))
    with pytest.raises(MarkError, match=message):
        read_mark(buffer.getvalue())


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot stand in XML"):
        Mark.model_validate(MARK.model_dump() | {"source_image_id": "a/\x00"})
    with pytest.raises(ValidationError, match="at least 1"):
        Mark.model_validate(MARK.model_dump() | {"consent": ""})
    for wrong in (PIXELS[..., 0], PIXELS.astype(float), PIXELS[:0], np.dstack([PIXELS, PIXELS[..., :1]])):
        with pytest.raises(ValueError, match="uint8 is needed"):
            mark_png(wrong, MARK)
    with pytest.raises(ValueError, match="quality"):
        mark_jpeg(PIXELS, MARK, quality=0)
