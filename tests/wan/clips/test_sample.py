"""What a sampling tells as it goes, and what it leaves behind when its listener ends it."""

import pytest

from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import guide_for, sample
from shelllcc.guidance.wan.model.presets import PRESETS

SMALL = {"prompt": "a tabby cat, zoom in, daylight", "width": 64, "height": 64, "frames": 5, "steps": 3}
REQUEST = Request.resolve(PRESETS["tiny"], **SMALL, window=(0.0, 1.0))


@pytest.fixture(scope="module")
def guide(pipe):
    from shelllcc import load_bank

    return guide_for(REQUEST, load_bank("auto", pipe))


@pytest.fixture(scope="module")
def whole(pipe, guide):
    return sample(pipe, REQUEST, guide)


def test_moments_come_in_order_and_the_last_before_decoding(pipe, guide, whole):
    heard = []
    handle = pipe.vae.decoder.register_forward_pre_hook(lambda *_: heard.append("decoding"))
    try:
        clip = sample(pipe, REQUEST, guide, on_moment=heard.append)
    finally:
        handle.remove()
    moments = [one for one in heard if one != "decoding"]
    assert heard[: len(moments)] == moments
    assert "decoding" in heard
    assert [(one.step, one.steps, one.is_last) for one in moments] == [(1, 3, False), (2, 3, False), (3, 3, True)]
    assert [one.distance for one in moments[: len(clip.trace)]] == [seen.distance[0] for seen in clip.trace]
    assert moments[0].sigma > moments[1].sigma > moments[2].sigma
    assert clip.frames_sha256 == whole.frames_sha256


@pytest.mark.parametrize("at", [1, 3])
def test_a_listener_that_ends_a_sampling_leaves_the_pipeline_as_it_was(at, pipe, guide, whole):
    kind, transformer, prefix = type(pipe.scheduler), pipe.transformer, Prefix(1)

    def stop(moment):
        if moment.step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(pipe, REQUEST, guide, prefix=prefix, cache="first-block", on_moment=stop)
    assert type(pipe.scheduler) is kind
    assert "forward" not in vars(transformer)
    assert not transformer._forward_hooks
    assert not transformer.is_cache_enabled
    again = sample(pipe, REQUEST, guide, prefix=prefix)
    assert (prefix.calls[0].computed, prefix.calls[1].replayed) == (at, 1)
    assert again.frames_sha256 == whole.frames_sha256
