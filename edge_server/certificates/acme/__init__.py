"""Certificates by ACME (RFC 8555): asked for, renewed, swapped, and why not."""
