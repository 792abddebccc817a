"""Seemly's public face: the Python client and the command line, which reaches the rest lazily."""
