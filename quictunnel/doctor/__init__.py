"""``quictunnel doctor``: what stands between this machine and a tunnel, looked at one by one."""
