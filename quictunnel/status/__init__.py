"""Status of running clients: each process with tunnels answers queries of its own user."""
