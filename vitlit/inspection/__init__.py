"""What is in a data set, before training: counts, duplicates, doubtful labels, pictures."""
