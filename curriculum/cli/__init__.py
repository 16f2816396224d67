"""The command line: one file a verb, and the views that they print. May import everything."""
