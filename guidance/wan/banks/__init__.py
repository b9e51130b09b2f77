"""Latents of videos, and banks made of them."""
