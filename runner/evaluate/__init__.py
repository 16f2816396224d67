"""Held-out loss and benchmarks of a checkpoint."""
