"""Images with labels to batches: data sets, splits, sampling."""
