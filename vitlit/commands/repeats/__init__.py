"""Several trainings of one command: folds, or repeats with other seeds, and their summary."""
