"""Whole steps at once: captured as CUDA graphs, or run the same way eagerly."""
