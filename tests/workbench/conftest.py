"""What tests of runs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def sampled(monkeypatch):
    """The strengths that were sampled."""
    from shelllcc.guidance.wan.clips import sample as module

    made, real = [], module.sample

    def sample(pipe, request, *args, **kwargs):
        made.append(request.guide.strength)
        return real(pipe, request, *args, **kwargs)

    monkeypatch.setattr(module, "sample", sample)
    return made
