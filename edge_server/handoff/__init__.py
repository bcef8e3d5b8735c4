"""Hot restart: an edge hands its sockets and names to its successor."""
