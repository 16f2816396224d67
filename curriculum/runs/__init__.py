"""What run folders mean for a compiled curriculum: status, drift, retention, verify, branch.

May import compiler, launchers and below.
"""
