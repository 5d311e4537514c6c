"""Weights and checkpoints, in and out: reading, adapting, writing and exporting."""
