"""Questions on what was planned and measured; prints nothing, starts nothing. May import runs and below."""
