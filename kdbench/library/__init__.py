"""kdbench from Python: the methods in anybody's own training loop, and the verbs of the command line as functions."""
