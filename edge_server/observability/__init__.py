"""Metrics, health, logs, state dumps and the lag of the event loop."""
