"""The development certificate authority and its command."""
