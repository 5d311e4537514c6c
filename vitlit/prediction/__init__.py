"""What a model predicts for your images, and the files that this is written to."""
