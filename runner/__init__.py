"""What each process executes: one job at a time, from a job file; it knows no YAML and no lineage."""
