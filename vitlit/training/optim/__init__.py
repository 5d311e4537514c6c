"""What updates the weights: parameter groups, optimisers, and the schedule of the rate."""
