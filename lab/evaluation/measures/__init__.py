"""Detectors and measures of finished pictures, each behind one small protocol, chosen by name."""
