"""Tunnels: public names and ports, their owners and clients, and the routing of visitors to them."""
