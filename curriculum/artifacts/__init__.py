"""What jobs leave on disk, shared with the runner: job files, checkpoints, ledger, evaluations, metrics.

May import plan, data and below.
"""
