"""A job file becomes processes: subprocess, torchrun, Slurm; the supervisor.

May import config, artifacts and below.
"""
