"""Sweeps: plan the runs of an experiment, run them in workers, and show their state."""
