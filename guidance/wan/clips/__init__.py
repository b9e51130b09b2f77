"""From a request to a clip, alone, in batches, over GPUs."""
