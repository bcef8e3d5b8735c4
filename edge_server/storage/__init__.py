"""Persistent state: the state directory, the SQLite database, and the clock that dates their entries."""
