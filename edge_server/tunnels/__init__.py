"""Tunnels: public names and ports, who holds them, how visitors are routed to them."""
