"""Prefix replay: fewer calls, the same frames."""

import functools

import pytest
import torch

from shelllcc.guidance.errors import SamplingError
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import first_move, guide_for, sample
from shelllcc.guidance.wan.model.presets import PRESETS

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 3.0)
SMALL = dict(width=32, height=32, frames=5)


@pytest.fixture(scope="module")
def shipped(pipe):
    from shelllcc import load_bank

    return load_bank("auto", pipe)


def request(**values):
    return Request.resolve(PRESETS["tiny"], prompt="a tabby cat, zoom in, daylight", **(SMALL | values))


def arms(**values):
    return [request(**values).changed(strength=strength) for strength in STRENGTHS]


@pytest.fixture(scope="module")
def alone(pipe, shipped):
    """The clip of a request without any prefix, sampled once."""
    return functools.cache(lambda request: sample(pipe, request, guide_for(request, shipped)))


def steps_of(pipe, requests):
    return 1 + max(first_move(pipe, r, r.guide) for r in requests if r.guide.strength)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_sweep_is_one_prefix_and_five_tails_and_every_clip_equals_its_own_run(pipe, shipped, alone, cfg):
    requests = arms(cfg=cfg, steps=8)
    prefix = Prefix(steps_of(pipe, requests))
    swept = [sample(pipe, r, guide_for(r, shipped), prefix=prefix) for r in requests]
    for ours, theirs in zip(swept, map(alone, requests), strict=True):
        torch.testing.assert_close(ours.latents, theirs.latents, rtol=0, atol=0)
        assert ours.frames_sha256 == theirs.frames_sha256
        assert ours.trace == theirs.trace
    a_step = 2 if cfg > 1 else 1
    shared, tail = prefix.steps * a_step, (8 - prefix.steps) * a_step
    assert 0 < tail < shared
    assert [(calls.computed, calls.replayed) for calls in prefix.calls] == [(shared + tail, 0)] + [(tail, shared)] * 4
    assert prefix.bytes == shared * swept[0].latents.numel() * 4


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_windows_may_differ_in_any_order(pipe, shipped, alone, order):
    requests = [request(strength=s, window=w, steps=8) for s, w in ((0.0, (0, 0.5)), (2.0, (0, 0.8)), (1.0, (0, 0.5)))]
    prefix = Prefix(8)
    for index in order:
        wanted = requests[index]
        swept = sample(pipe, wanted, guide_for(wanted, shipped), prefix=prefix)
        assert swept.frames_sha256 == alone(wanted).frames_sha256


@pytest.mark.parametrize(("high", "share"), [(0.85, 0.73), (0.75, 0.60)])
def test_five_strengths_take_no_more_than_their_share_of_calls(pipe, high, share):
    requests = arms(window=(0.0, high), steps=50)
    steps = steps_of(pipe, requests)
    assert (steps + 5 * (50 - steps)) / (5 * 50) <= share


def test_outputs_on_disk_give_the_same_frames_and_leave_nothing(pipe, shipped, alone, tmp_path):
    requests = arms(steps=8)
    prefix = Prefix(steps_of(pipe, requests), folder=tmp_path / "replay")
    clips = [sample(pipe, r, guide_for(r, shipped), prefix=prefix) for r in requests[:3]]
    assert prefix.calls[-1].replayed == prefix.steps == len(list((tmp_path / "replay").iterdir()))
    assert clips[2].frames_sha256 == alone(requests[2]).frames_sha256
    prefix.discard()
    assert not (tmp_path / "replay").exists()


def test_what_passes_the_limit_is_computed_again(pipe, shipped, alone):
    requests = arms(steps=8)
    one = 16 * 2 * 4 * 4 * 4
    prefix = Prefix(steps_of(pipe, requests), limit=2 * one)
    clips = [sample(pipe, r, guide_for(r, shipped), prefix=prefix) for r in requests[:2]]
    assert (prefix.bytes, prefix.calls[1].replayed) == (2 * one, 2)
    assert clips[1].frames_sha256 == alone(requests[1]).frames_sha256


def test_another_size_is_refused_and_the_transformer_is_as_it_was(pipe, shipped):
    prefix = Prefix(3)
    sample(pipe, request(steps=3), prefix=prefix)
    with pytest.raises(SamplingError, match="one size"):
        sample(pipe, request(steps=3, width=80), prefix=prefix)
    assert "forward" not in pipe.transformer.__dict__


def test_a_forward_of_ones_own_stays(pipe):
    forward = pipe.transformer.forward
    pipe.transformer.forward = mine = lambda *args, **kwargs: forward(*args, **kwargs)
    try:
        with Prefix(1).replayed(pipe, 1):
            assert pipe.transformer.forward is not mine
        assert pipe.transformer.forward is mine
    finally:
        del pipe.transformer.forward
