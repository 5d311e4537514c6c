"""What depends on the kind of label: targets, loss, scores and answers of each task."""
