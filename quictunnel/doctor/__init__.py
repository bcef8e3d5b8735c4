"""``quictunnel doctor``: checks of everything that a tunnel from this machine needs."""
