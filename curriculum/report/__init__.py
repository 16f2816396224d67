"""Pictures and the HTML report; starts nothing.

May import analysis and below.
"""
