"""Certificates that visitors are met with, and their renewal by ACME."""
