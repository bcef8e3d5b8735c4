"""What an edge shows of itself: figures for Prometheus, whether it is well, and its whole state in one file.

Everything here looks and changes nothing. The figures need the extra ``edge``; nothing else does.
"""
