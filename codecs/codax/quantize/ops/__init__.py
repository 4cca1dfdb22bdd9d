"""Tools of the quantizers: clustering, assignment, annealing, revival, gradients."""
