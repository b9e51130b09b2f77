"""The ComfyUI nodes: thin, the same guide."""
