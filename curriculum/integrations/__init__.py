"""A plan inside other trainers, and its text inside `datasets`: `.torch` for any PyTorch loop, `.transformers` for its
Trainer, `.datasets` for rows of prepared text.

Each module imports its framework. Of the rest of `curriculum` only `report/notebook.py` imports this package, for rows.
"""
