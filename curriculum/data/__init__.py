"""Prepared text on disk: its format, where it came from, and the reader that gathers windows from it."""
