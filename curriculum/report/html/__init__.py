"""The HTML report on curricula."""
