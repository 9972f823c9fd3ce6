"""What functionals compute with: distances, quantiles, soft minima, Sinkhorn iterations, exact transport."""
