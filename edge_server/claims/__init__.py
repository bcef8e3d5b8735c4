"""Names and TCP ports that belong to somebody, whether they are in use or not."""
