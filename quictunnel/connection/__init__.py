"""Connection to the edge: dialling, sessions that outlive links, leases, visitors."""
