"""A trained model, taken elsewhere: exports for other programs, a web page, the model hub."""
