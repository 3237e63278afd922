"""The release of fastfake."""

__version__ = "0.1.0"
