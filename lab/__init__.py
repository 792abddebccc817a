"""Offline work on the same parts as the workers: the world, benchmarks."""
