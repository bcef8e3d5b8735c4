"""Tokens, what each of them permits, and limits by token."""
