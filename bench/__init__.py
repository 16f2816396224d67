"""One command for each published figure; docs/benchmarks.md describes what each measures and how."""
