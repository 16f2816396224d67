"""Jobs submitted to Slurm: training, benchmarks, preparation."""
