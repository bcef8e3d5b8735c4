"""Forms as fields and files, and what is shown of malformed ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.inspect import limits
from quictunnel.inspect.forms import CUT, MULTIPART, TOO_MANY, URLENCODED, FormField, decode_form

TYPE = MULTIPART + b"; boundary=XX"


def part(headers: str, value: bytes = b"v") -> bytes:
    return b"--XX\r\n" + headers.encode() + b"\r\n\r\n" + value + b"\r\n"


def test_urlencoded_fields():
    form = decode_form(b"tea=Earl+Grey&tea=%C3%A9&&empty=&flag", URLENCODED + b"; charset=utf-8", is_cut=False)
    assert form == (
        [
            FormField("tea", b"Earl Grey"),
            FormField("tea", "é".encode()),
            FormField("empty", b""),
            FormField("flag", b""),
        ],
        "",
    )


def test_multipart_fields_and_files():
    body = (
        b"preamble\r\n"
        + part('Content-Disposition: form-data; name="a \\"b\\""', b"line\r\n--X\r\nline")
        + part('content-disposition: form-data; filename="C:\\\\x.txt"; name=up\r\nContent-Type: text/plain', b"")
        + part("Content-Disposition: form-data; name=n; filename*=UTF-8''caf%C3%A9.png", b"\x89PNG\r\n\r\n--")
        + b"--XX--\r\nepilogue"
    )
    form = decode_form(body, MULTIPART + b'; charset=x; boundary="XX"', is_cut=False)
    assert form == (
        [
            FormField('a "b"', b"line\r\n--X\r\nline"),
            FormField("up", b"", "C:\\x.txt", "text/plain"),
            FormField("n", b"\x89PNG\r\n\r\n--", "café.png"),
        ],
        "",
    )


def test_other_bodies_are_no_forms():
    assert decode_form(b"a=b", b"text/plain", is_cut=False) is None
    assert decode_form(b"a=b", b"", is_cut=False) is None


@pytest.mark.parametrize(
    ("content_type", "body", "count", "note"),
    [
        (MULTIPART, b"--XX\r\n", 0, "no boundary"),
        (TYPE, b"", 0, "does not occur"),
        (TYPE, part("no headers").replace(b"\r\n\r\n", b""), 0, "no end of its headers"),
        (TYPE, part("Content-Disposition: form-data; name=a"), 1, "last boundary is missing"),
        (TYPE, part("X: y") + b"--XXyes\r\n", 1, "end of its line"),
        (TYPE, part("X: " + "y" * limits.MAX_PART_HEAD), 0, "no end of its headers"),
    ],
)
def test_malformed_multipart_says_so_and_keeps_what_came_before(content_type, body, count, note):
    form = decode_form(body, content_type, is_cut=False)
    assert form is not None
    assert len(form.fields) == count
    assert note in form.note


def test_body_that_was_stored_in_part():
    form = decode_form(part("Content-Disposition: form-data; name=a", b"beginning"), TYPE, is_cut=True)
    assert form is not None
    assert (form.fields[0].value, form.note) == (b"beginning\r\n", CUT)
    assert decode_form(b"a=b", URLENCODED, is_cut=True) == ([FormField("a", b"b")], CUT)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [(URLENCODED, b"a=b&" * 1000), (TYPE, part("Content-Disposition: form-data; name=a") * 1000 + b"--XX--")],
)
def test_fields_are_limited(content_type, body):
    form = decode_form(body, content_type, is_cut=False)
    assert form is not None
    assert (len(form.fields), form.note) == (limits.MAX_FIELDS, TOO_MANY.format(limits.MAX_FIELDS))


def test_names_are_limited():
    name = "n" * 10_000
    form = decode_form(name.encode() + b"=x", URLENCODED, is_cut=False)
    assert form is not None
    assert len(form.fields[0].name) <= 4 * limits.MAX_FIELD_NAME
    form = decode_form(
        part(f'Content-Disposition: form-data; name="{name[:3000]}"') + b"--XX--", TYPE, is_cut=False
    )
    assert form is not None
    assert len(form.fields[0].name) == limits.MAX_FIELD_NAME


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([b"--XX", b"\r\n", b"--", b": ", b'name="', b"=", b"&", b"%"]), st.binary())
    )
)
def test_any_bytes_are_decoded_without_an_error(pieces: list[bytes]):
    for content_type in (TYPE, URLENCODED):
        assert decode_form(b"".join(pieces), content_type, is_cut=False) is not None
