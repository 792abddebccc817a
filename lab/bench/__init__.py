"""Benchmarks: ratios in one run, arms interleaved A B B A, medians with their spread."""
