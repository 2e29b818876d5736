"""Small things that every wing may use: files, environment, seeds, wording."""
