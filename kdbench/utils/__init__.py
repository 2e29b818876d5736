"""Small things that every part may use."""
