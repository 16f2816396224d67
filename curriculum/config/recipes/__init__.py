"""Recipes of other trainers as curricula: one module a format, and the project's files that are written from them."""
