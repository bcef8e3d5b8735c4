"""Connected clients: their sessions and the table of all sessions."""
