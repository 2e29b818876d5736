"""A teacher's outputs, kept on disk by crop and flip."""
