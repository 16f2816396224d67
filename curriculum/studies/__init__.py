"""Studies: which curriculum to run, decided with evidence from trained arms. Prints nothing, trains nothing."""
