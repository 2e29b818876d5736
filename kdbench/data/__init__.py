"""Data sets as resident tensors, and the loader that makes batches of them."""
