"""Bytes of all kinds for everything that reads what strangers and peers send.

    python -m tests.fuzz client-hello --count 10000000
    python -m tests.fuzz control --seconds 60

Each target holds a property for whatever bytes it gets (``targets``), begins with inputs that real programs made
(``seeds``), and is driven by Atheris, which looks for inputs that run other lines, where it is installed, and by a
mutator of our own where not (``mutator``).
"""
