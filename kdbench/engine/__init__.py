"""The engine: students in lock-step on one teacher pass, resumable to the bit."""
