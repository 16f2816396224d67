"""Checkpoints as tensors: asynchronous sharded save and load, conversion from and to Hugging Face directories."""
