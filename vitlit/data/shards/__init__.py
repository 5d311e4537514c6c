"""Sets of millions of images in tar files, read where they lie: on a disk or a network."""
