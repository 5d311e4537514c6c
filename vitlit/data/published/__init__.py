"""Published data sets on disk: unpacked from the Hugging Face hub, or in torchvision's layouts."""
