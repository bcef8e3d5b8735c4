"""Names that a tunnel may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_server.tunnels.registry import random_name
from quictunnel.wire.labels import MAX_DOMAIN, MAX_LABEL, domain_validation_error, validation_error


@pytest.mark.parametrize("name", ["a", "1", "my-app", "abc--d", "x" * MAX_LABEL, "customerfeedback", "8080"])
def test_good_ones(name: str):
    assert validation_error(name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "a-z, 0-9 and hyphens"),
        ("-a", "no hyphen at either end"),
        ("a-", "no hyphen at either end"),
        ("a.b", "a-z, 0-9 and hyphens"),
        ("a_b", "a-z, 0-9 and hyphens"),
        ("a\n", "a-z, 0-9 and hyphens"),
        ("a b", "a-z, 0-9 and hyphens"),
        ("x" * (MAX_LABEL + 1), f"up to {MAX_LABEL}"),
        ("My-App", "lower case"),
        # Letters that look like others, or become others: Cyrillic, the Kelvin sign, full width, dotless.
        ("\u0430pple", "a-z, 0-9 and hyphens"),
        ("\u212aey", "a-z, 0-9 and hyphens"),
        ("\uff41pp", "a-z, 0-9 and hyphens"),
        ("adm\u0131n", "a-z, 0-9 and hyphens"),
        ("\u0661", "a-z, 0-9 and hyphens"),
        ("xn--80ak6aa92e", "encoded names such as xn--"),
        ("ab--c", "encoded names such as xn--"),
        ("abcdefghijklmno2", "form of the edge's random names"),
    ],
)
def test_invalid_labels_are_explained(name: str, words: str):
    wrong = validation_error(name)
    assert wrong is not None
    assert words in wrong


def test_form_of_random_names_is_refused():
    assert all(validation_error(random_name()) for _ in range(1000))


@given(st.text(max_size=70))
def test_valid_label_is_one_ascii_label(name: str):
    if validation_error(name) is None:
        assert name.isascii()
        assert name == name.lower()
        assert name.encode("idna") == name.encode()


@pytest.mark.parametrize(
    "domain",
    ["example.com", "a.b", "app.example.co.uk", "xn--bcher-kva.example", "1.example.com", f"{'a.' * 125}com"],
)
def test_a_domain_is_fine(domain):
    assert domain_validation_error(domain) is None


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("", "such as app.example.com"),
        ("localhost", "a custom domain name"),
        ("example.com.", "without a dot at its end"),
        ("Example.com", "lower case"),
        ("*.example.com", "such as"),
        ("a_b.example.com", "such as"),
        ("-a.example.com", "such as"),
        ("a..example.com", "such as"),
        (".example.com", "such as"),
        ("1.2.3.4", "a custom domain name"),
        ("example.0x7f", "a custom domain name"),
        ("b\u00fccher.example", "xn--"),
        ("example.com\n", "such as"),
        ("a" * 64 + ".com", "such as"),
        ("a." * 126 + "com", "such as"),
        ("x" * 100_000, "such as"),
    ],
)
def test_invalid_domains_are_explained(domain, words):
    wrong = domain_validation_error(domain)
    assert wrong is not None
    assert words in wrong
    assert len(domain) > MAX_DOMAIN or domain_validation_error(domain) == wrong
