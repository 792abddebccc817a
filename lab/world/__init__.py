"""A small picture world drawn from seeds, and the Stable-Diffusion-shaped model trained on it."""
