"""Who may hold tunnels at this edge, and how much of it: identities, their tokens, and what these allow."""
