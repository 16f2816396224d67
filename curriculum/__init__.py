"""A pretraining curriculum written in YAML, compiled once into a plan of plain numbers."""
