"""The training loop: state, step, optimizer, saves."""
