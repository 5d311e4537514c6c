"""Published data sets, where they lie on disk: the hub's, unpacked, and torchvision's layouts."""
