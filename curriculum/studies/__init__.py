"""Studies: which curriculum to run, decided from arms that were trained, with evidence. Prints nothing, trains nothing."""
