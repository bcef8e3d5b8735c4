"""What outlives the process: the state directory, the SQLite database, and the clock that dates what they hold."""
