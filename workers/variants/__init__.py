"""Erased weights as files: what a variant holds, its card, reading with every check, writing."""
