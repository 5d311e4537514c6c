"""Image files to tensors: finding, decoding, caching, and what a model takes of them."""
