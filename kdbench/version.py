"""The version, which nothing else has to be loaded for."""

__version__ = "0.2.0"
