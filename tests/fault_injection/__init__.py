"""Faults on purpose: kills, power cuts, failing disks, flipped bits, wrong and hostile files."""
