"""Count what the embedded model takes at its usual size, and keep that beside it: `python -m training.counts`."""

from __future__ import annotations

from collections.abc import Iterator

from shelllcc.guidance.files import write_json
from shelllcc.guidance.wan.model.counted import SHIPPED, Count, key_of
from shelllcc.guidance.wan.model.counting import count_text_encoder, count_transformer, count_vae
from shelllcc.guidance.wan.model.memory import latents_shape
from shelllcc.guidance.wan.model.pipeline import find_model
from shelllcc.guidance.wan.model.presets import PRESETS

DTYPES = ("float32", "bfloat16")  # the usual ones of the CPU and of GPUs


def shipped() -> Iterator[tuple[str, Count]]:
    """Every key and count of a dry run that changes no default of the embedded model."""
    model = find_model(None)
    latents = latents_shape(model, PRESETS["tiny"])
    yield key_of(count_vae, model.vae, latents), count_vae(model.vae, latents)
    for dtype in DTYPES:
        args = (model.transformer, latents, dtype)
        yield key_of(count_transformer, *args), count_transformer(*args)
        yield key_of(count_text_encoder, model.text_encoder, dtype), count_text_encoder(model.text_encoder, dtype)


if __name__ == "__main__":
    write_json(SHIPPED, dict(shipped()))
