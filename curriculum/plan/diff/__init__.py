"""The first step at which two lineages of plans differ, and in what."""
