"""A plan inside other trainers: `.torch` for any PyTorch loop, `.transformers` for its Trainer.

Each module imports its framework; nothing else of `curriculum` imports this package.
"""
