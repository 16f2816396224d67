"""YAML to plans: lineage, scaling, sources, mixtures, limits, cost.

May import config, artifacts and below.
"""
