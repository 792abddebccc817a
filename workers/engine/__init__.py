"""The engine: continuous batching at denoising-step granularity. Knows the safety protocol, not the methods."""
