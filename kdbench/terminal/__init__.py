"""The terminal: the only home of rich."""
