"""The model on a single device: Llama, attention, loss, initialisation."""
