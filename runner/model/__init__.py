"""The model on a single device: transformer, attention, loss, initialisation."""
