"""One training run: module, loss, optimiser, callbacks, checkpoints and the run's folder."""
