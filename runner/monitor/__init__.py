"""What is recorded of a run: metrics, environment, loss spikes, FLOPs, trackers."""
