"""Pictures of the README and docs: they hold what their captions say."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np

from benchmarks import picture


def test_a_stretched_clip_has_more_detail_from_tile_to_tile(tmp_path):
    picture.radial(tmp_path / "radial.png", smoke=True)
    tiles = np.split(iio.imread(tmp_path / "radial.png")[20:].astype(float), 9, axis=1)  # labels are above
    detail = [float(np.abs(np.diff(tile, axis=1)).mean()) for tile in tiles]
    assert detail[0] < detail[2] < detail[4] < detail[8]


def test_the_first_picture_shows_one_place_twice_and_guidance_in_one(tmp_path):
    picture.hero(tmp_path / "hero.png", place="8,8,16", enlarge=12, smoke=True)
    shown = iio.imread(tmp_path / "hero.png")
    left, right = shown[-192:, :192].astype(float), shown[-192:, -192:].astype(float)
    assert 0 < np.abs(left - right).mean() < 40
    for half in (left, right):  # each pixel is a square of 12
        assert (half.reshape(16, 12, 16, 12, 3) == half[::12, ::12][:, None, :, None]).all()
