"""Visitors' connections: TLS and TCP listeners, admission, rate limits, filters."""
