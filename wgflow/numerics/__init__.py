"""What functionals compute with: distances, quantiles, Sinkhorn iterations, exact transport."""
