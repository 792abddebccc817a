"""Concepts erased from a model's weights: ESD, SDD, UCE, and the loop that trains the first two."""
