"""Tokenised text on disk: manifests, shards, token files, tokenizers, listings. May import errors, units and fs."""
