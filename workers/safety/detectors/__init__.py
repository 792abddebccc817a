"""Detectors behind one protocol, and the panel that asks all of them and fails closed."""
