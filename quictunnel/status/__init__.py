"""What runs here: each process with tunnels can be asked by its own user."""
