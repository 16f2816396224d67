"""Everything that starts a job: prepare, run, evaluate, benchmark, export, import, doctor.

May import analysis and below.
"""
