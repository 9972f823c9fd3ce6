"""What runs a flow: the loop, what it returns, callbacks, checkpoints, step sizes."""
