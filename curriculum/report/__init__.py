"""Pictures, the HTML report, and a project as tables for a notebook; starts nothing.

May import analysis and below.
"""
