"""What a guide must know of one model and sampler, found by round trips of real clips."""
