"""Certificates presented to visitors, and their renewal by ACME."""
