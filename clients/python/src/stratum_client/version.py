"""Which client this is; it says so in the `User-Agent` of every call."""

__version__ = "0.1.0"
