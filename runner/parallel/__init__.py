"""Ranks, sharding, determinism, sums that do not depend on the number of ranks."""
