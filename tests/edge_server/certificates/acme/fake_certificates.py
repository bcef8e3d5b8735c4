"""Certificates as an ACME server issues them, without one."""

from __future__ import annotations

import datetime as dt

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_server.certificates.acme.store import IssuedCertificate

CA = trustme.CA()


def issue(*names: str, now: float, days: float = 90) -> IssuedCertificate:
    begin = dt.datetime.fromtimestamp(now, dt.UTC)
    leaf = CA.issue_cert(*names, not_before=begin, not_after=begin + dt.timedelta(days=days))
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    # trustme writes the traditional form, orders write PKCS 8.
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return IssuedCertificate.from_pem(chain, key, names)
