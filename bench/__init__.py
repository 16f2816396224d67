"""One command for every published figure; README.md says what each measures and how."""
