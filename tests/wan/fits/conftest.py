"""What samples in the tests of fits: the embedded model, its texts in a folder of their own."""

import pytest

from shelllcc.guidance.wan.clips.batch import Silent
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import find_model


@pytest.fixture(scope="module")
def studio(pipe, tmp_path_factory):
    studio = Studio(find_model(None), Loading(), Silent(), device="cpu")
    studio.__dict__["pipe"] = pipe
    studio.texts.folder = tmp_path_factory.mktemp("texts")
    return studio
