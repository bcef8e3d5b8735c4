"""Certificates by ACME (RFC 8555): orders, renewal and installation."""
