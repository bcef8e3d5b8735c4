"""Options of an edge: their types, the table of them, and the sources that they are read from."""
