"""What `--dry-run` says of memory: counted as the models run, and as it was measured on a GPU."""

import json

import pytest
import torch

from benchmarks.wan_geometry import LARGE_TRANSFORMER, TEXT, TRANSFORMER, VAE
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.counting import work
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.memory import costs, forecast
from shelllcc.guidance.wan.model.pipeline import Model
from shelllcc.guidance.wan.model.presets import PRESETS

# Peak GB at 832x480, 81 frames, measured on an H200: `python -m benchmarks.gpu --part memory --part large`
MEASURED = {
    ("1.3B", "none", False): {"sampling": 5.09, "decoding": 12.85},
    ("1.3B", "none", True): {"decoding": 5.46},
    ("1.3B", "model", False): {"encoding": 11.49, "sampling": 4.56, "decoding": 10.00},
    ("1.3B", "model", True): {"decoding": 2.60},
    ("1.3B", "group", False): {"sampling": 2.27, "decoding": 10.00},
    ("1.3B", "group", True): {"decoding": 2.61},
    ("14B", "none", False): {"sampling": 33.02, "decoding": 38.66},
    ("14B", "none", True): {"decoding": 31.27},
    ("14B", "model", False): {"sampling": 32.51, "decoding": 9.98},
    ("14B", "model", True): {"decoding": 2.59},
    ("14B", "group", False): {"sampling": 4.35, "decoding": 9.98},
    ("14B", "group", True): {"decoding": 2.59},
}


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHELLLCC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def models():
    return {
        name: Model(name, "none", dict(config), dict(VAE), False, dict(TEXT))
        for name, config in (("1.3B", TRANSFORMER), ("14B", LARGE_TRANSFORMER))
    }


def request(preset="diffusers-480p", **values):
    return Request.resolve(PRESETS[preset], prompt="a tabby cat", **values)


@pytest.fixture(scope="module")
def found(models):
    return {name: costs(model, request(), Loading(), dtype=torch.bfloat16) for name, model in models.items()}


def test_bytes_alive_are_counted_and_views_and_weights_are_not():
    weight = torch.empty(1000, 1000, device="meta")

    def run():
        a = torch.empty(1000, 1000, device="meta") @ weight.T  # the empty one dies here
        b = a.view(-1)[:500].t() + 1.0
        del a
        return torch.empty(10, device="meta") + b[:10]

    assert work(run) == 2 * 4_000_000
    assert work(lambda: weight.T) == 0


def test_the_plan_is_what_was_measured(found):
    for (name, offload, tiling), peaks in MEASURED.items():
        planned = found[name].loaded(offload, tiling=tiling)
        for stage, peak in peaks.items():
            assert planned[stage].peak / 1e9 == pytest.approx(peak, rel=0.15), (name, offload, tiling, stage)


def test_parts_are_those_of_the_released_models(found):
    assert found["1.3B"].parameters["transformer"] == 1_418_996_800
    assert found["14B"].parameters["transformer"] == 14_288_491_584
    assert found["1.3B"].parameters["text_encoder"] == 5_680_910_336
    assert found["1.3B"].latents == (1, 16, 21, 60, 104)
    assert found["1.3B"].loaded("model", tiling=False)["encoding"].peak < 12e9  # umT5-XXL is the most of it


def test_what_is_quantized_or_doubled_weighs_accordingly(found, tmp_path):
    [whole] = found["1.3B"].transformers
    file = tmp_path / "wan.gguf"
    file.write_bytes(b"0" * 12345)

    def short(two_stage=False, **loading):
        model = Model("wan", "none", dict(TRANSFORMER), dict(VAE), two_stage)
        return costs(model, request(frames=1), Loading(**loading), dtype=torch.bfloat16)

    assert short(quantize="fp8").transformers == (whole // 2,)
    assert short(transformer=str(file)).transformers == (12345,)
    twice = short(two_stage=True)
    assert twice.transformers == (whole, whole)
    assert twice.loaded("none", tiling=False)["sampling"].weights - twice.vae == 2 * whole
    assert twice.loaded("model", tiling=False)["sampling"].weights == whole
    assert "encoding" not in twice.loaded("model", tiling=False)


def test_more_frames_and_pixels_take_more(models):
    small, large = (
        forecast(models["1.3B"], request(preset, frames=frames), Loading(), dtype=torch.bfloat16)
        for preset, frames in (("diffusers-480p", 5), ("diffusers-720p", 33))
    )
    assert large["GB"]["sampling"]["work"] > 5 * small["GB"]["sampling"]["work"]
    assert large["step_TFLOP"] > 10 * small["step_TFLOP"]
    assert large["peak_GB_with"]["--offload group --tiling"] < large["peak_GB_with"]["--offload none"] / 2


def test_a_dry_run_plans_for_a_gpu_that_is_not_here(shelllcc):
    code, out, err = shelllcc("generate", "-p", "a tabby cat", "--device", "cuda", "--dry-run", "--json")
    assert code == 0, err
    [planned] = json.loads(out)["memory"]
    assert (planned["width"], planned["frames"], planned["dtype"]) == (192, 17, "bfloat16")
    assert list(planned["GB"]) == ["encoding", "sampling", "decoding"]
    assert planned["peak_GB"] == max(stage["peak"] for stage in planned["GB"].values())
