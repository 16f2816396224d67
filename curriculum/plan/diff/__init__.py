"""The first step at which two lineages of plans differ, by attribute. May import the rest of plan."""
