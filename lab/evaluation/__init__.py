"""Measures safety methods on a model, and calibrates them for it."""
