"""``python -m kdbench``."""

from kdbench.cli import main

main(prog_name="kdbench")
