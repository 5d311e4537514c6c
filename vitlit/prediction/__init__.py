"""What a model says of your images, and the files it is written to."""
