"""When, how far and which way the predicted x0 is moved."""
