"""Every layout of LoRAs and transformers acts as weights merged by hand do, or says in one line why not."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import loads
from benchmarks.file_layouts import FILES, write_file
from benchmarks.loads import load, merged, output, told
from benchmarks.lora_layouts import ADAPTERS, write_lora
from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import find_model, foresee

pytest.importorskip("peft", reason="LoRAs need the library peft")
pytest.importorskip("gguf", reason="reading .gguf needs the library gguf")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loads.toy(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="module")
def two_stage(tmp_path_factory):
    return loads.toy(tmp_path_factory.mktemp("toy") / "model", two_stage=True)


@pytest.fixture(scope="module")
def weights(model):
    return {name: weight.detach() for name, weight in load(model).state_dict().items()}


@pytest.fixture(scope="module")
def base(model):
    return output(load(model))


def named(row):
    return row.layout.replace(" ", "-")


@pytest.mark.parametrize("row", ADAPTERS, ids=named)
def test_a_lora_acts_as_its_merged_weights_or_says_why_not(row, model, weights, base, tmp_path):
    path = tmp_path / "style.safetensors"
    deltas = write_lora(row, path, weights)
    transformers = []
    went, lines = told(lambda: transformers.append(load(model, loras=(Lora(str(path), 0.7),))))
    said = row.said.replace("at 1", "at 0.7")
    assert any(re.search(said, line) for line in lines), lines
    assert went != row.refused
    assert all("\n" not in line and "style.safetensors" in line for line in lines)
    assert told(lambda: foresee(find_model(model), Loading(loras=(Lora(str(path), 0.7),)))) == (went, lines)
    if went:
        want = output(merged(model, deltas, 0.7))
        effect = (want - base).norm()
        assert effect > 0.01 * base.norm()
        assert (output(transformers[0]) - want).norm() < 1e-3 * effect


def test_at_most_six_of_the_layouts_are_refused():
    assert len(ADAPTERS) >= 37
    assert sum(row.refused for row in ADAPTERS) <= 6


@pytest.mark.parametrize("row", FILES, ids=named)
def test_a_transformer_of_each_layout_is_the_models_or_says_why_not(row, model, weights, base, tmp_path):
    path = tmp_path / f"wan{row.suffix}"
    write_file(row, path, weights)
    transformers = []
    went, lines = told(lambda: transformers.append(load(model, transformer=str(path))))
    assert went != row.refused, lines
    assert (not row.said and not lines) or any(re.search(row.said, line) for line in lines), lines
    assert all("\n" not in line and path.name in line for line in lines)
    if went:
        assert (output(transformers[0]) - base).norm() < row.close * base.norm()


def the(layout):
    return next(row for row in ADAPTERS if row.layout == layout)


@pytest.mark.parametrize("base", ["fp8", "int8", "gguf"])
@pytest.mark.parametrize(
    "layout",
    [
        "kohya, musubi-tuner",
        "differences of linear layers",
        "differences of norms",
        "DiffSynth-Studio",
        "DoRA of PEFT",
        "LoKr",
    ],
)
def test_a_lora_acts_alike_on_quantized_weights(layout, base, model, weights, tmp_path):
    if base == "int8":
        pytest.importorskip("torchao", reason="int8 needs the library torchao")
    lora, file = tmp_path / "style.safetensors", tmp_path / "wan.gguf"
    deltas = write_lora(the(layout), lora, weights)
    write_file(next(f for f in FILES if f.suffix == ".gguf" and not f.refused), file, weights)
    how = {"transformer": str(file)} if base == "gguf" else {"quantize": base}
    plain, moved = output(load(model, **how)), []
    _, lines = told(lambda: moved.append(output(load(model, loras=(Lora(str(lora)),), **how))))
    assert lines == told(lambda: foresee(find_model(model), Loading(loras=(Lora(str(lora)),), **how)))[1]
    want = output(merged(model, deltas)) - output(load(model))
    assert (moved[0] - plain - want).norm() < 0.15 * want.norm()


def test_two_loras_add_up(model, weights, tmp_path):
    both = {}
    for number, layout in enumerate(["ComfyUI, a rank a layer", "differences of linear layers"]):
        for name, delta in write_lora(the(layout), tmp_path / f"{number}.safetensors", weights).items():
            both[name] = both.get(name, 0) + (0.5 + number) * delta
    loras = tuple(Lora(str(tmp_path / f"{number}.safetensors"), 0.5 + number) for number in range(2))
    torch.testing.assert_close(output(load(model, loras=loras)), output(merged(model, both)), rtol=1e-4, atol=1e-4)


def test_pefts_own_file_has_its_alpha_beside_it(model, weights, tmp_path):
    deltas = write_lora(the("PEFT"), tmp_path / "adapter_model.safetensors", weights)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "use_rslora": true}')
    want = output(merged(model, deltas, 8 / 2))
    torch.testing.assert_close(output(load(model, loras=(Lora(str(tmp_path)),))), want, rtol=1e-4, atol=1e-4)


PEFTS = {
    "DoRA": ("LoraConfig", dict(r=4, lora_alpha=8, use_dora=True, init_lora_weights=False)),
    "LoHa": ("LoHaConfig", dict(r=4, alpha=8, init_weights=False)),
    "LoKr": ("LoKrConfig", dict(r=4, alpha=8, init_weights=False)),
    "LoKr of four": ("LoKrConfig", dict(r=2, alpha=8, decompose_both=True, init_weights=False)),
    "LoKr of whole factors": ("LoKrConfig", dict(r=64, alpha=32, init_weights=False)),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", PEFTS)
def test_pefts_own_adapters_act_as_peft_has_them(kind, model, tmp_path):
    import peft

    torch.manual_seed(3)
    trained, (config, values) = load(model), PEFTS[kind]
    layers = ["to_q", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    peft.inject_adapter_in_model(getattr(peft, config)(target_modules=layers, **values), trained)
    for name, weight in trained.named_parameters():
        if "lora_magnitude_vector" in name:
            weight *= 1 + 0.2 * torch.randn_like(weight)
        elif "lokr_" in name or "hada_" in name:
            weight.copy_(0.2 * torch.randn_like(weight))
    tensors = {f"base_model.model.{k}": v for k, v in peft.get_peft_model_state_dict(trained).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    want, plain = output(trained), output(load(model))
    assert (want - plain).norm() > 0.01 * plain.norm()
    got = output(load(model, loras=(Lora(str(tmp_path)),)))
    assert (got - want).norm() < 1e-3 * (want - plain).norm()


def test_what_cannot_be_told_apart_is_refused(model, tmp_path):
    for tensors, said in (
        ({f"{name}.diff": torch.ones(64, 64) for name in ("blocks.0.ffn.0", "blocks.0.ffn.net.0.proj")}, "one layer"),
        ({"blocks.0.ffn.0.lora_A.weight": torch.ones(2, 64)}, "lack their other half"),
        ({"patch_embedding.diff": torch.ones(64, 36, 1, 2, 2)}, "another model's patch_embedding"),
        ({"blocks.0.ffn.0.dora_scale": torch.ones(2, 1)}, "lack their other half"),
        ({"blocks.0.attn1.to_q.lora_A": torch.ones(2, 64), "blocks.0.attn1.to_q.lora_B": torch.ones(64, 2),
          "blocks.0.attn1.to_q.dora_scale": torch.ones(48, 1)}, "dora_scale is for [48, 1]"),
        ({"blocks.0.attn1.norm_q.lora_A": torch.ones(1, 1), "blocks.0.attn1.norm_q.lora_B": torch.ones(64, 1),
          "blocks.0.attn1.norm_q.dora_scale": torch.ones(1, 64)}, "for another Wan"),
        ({"blocks.0.ffn.0.lokr_w1": torch.ones(2, 2)}, "lack their other half"),
        ({"blocks.0.ffn.0.lokr_w1": torch.ones(2, 2), "blocks.0.ffn.0.lokr_w2": torch.ones(2, 2)}, "is for [4, 4]"),
        ({"blocks.0.attn1.to_q.wd_for_diff": torch.ones(1)}, "is DoRA of the difference alone"),
    ):  # fmt: skip
        save_file(tensors, tmp_path / "x.safetensors")
        went, lines = told(lambda: load(model, loras=(Lora(str(tmp_path / "x.safetensors")),)))
        assert not went
        assert said in lines[0]


def test_what_was_said_of_a_file_is_said_once_and_stands_in_each_sidecar(shelllcc, model, weights, tmp_path):
    write_lora(the("for image-to-video"), tmp_path / "i2v.safetensors", weights)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    small = ["--size", "32x32", "--frames", "5", "--steps", "2", "--strength", "0"]
    code, out, err = shelllcc(
        "batch", "prompts.txt", "-o", "all", "--model", model, "--lora", "i2v.safetensors:0.5", *small, "--json"
    )
    assert code == 0, err
    notes = [line.partition("note: ")[2] for line in err.splitlines() if "LoRA" in line]
    assert len(notes) == 2
    assert notes[0] == "LoRA i2v.safetensors: 30 layers of the transformer at 0.5"
    assert "not applied: 4 tensors of image-to-video layers" in notes[1]
    assert [clip["loaded"] for clip in json.loads(out)["clips"]] == [notes, notes]


SMALL = ["--size", "32x32", "--frames", "5", "--steps", "2"]
BOTH = "layers of the transformer for high noise at 0.5, "


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("style_high", "30 layers of the transformer for high noise at 0.5, as its name says"),
        ("style", f"30 {BOTH}30 layers of the transformer for low noise at 0.5; its name says neither"),
        ("pair", f"20 {BOTH}10 layers of the transformer for low noise at 0.5"),
    ],
)
def test_a_dry_run_says_where_a_lora_goes_by_its_header(name, want, shelllcc, two_stage, weights, tmp_path):
    path = tmp_path / f"{name}.safetensors"
    write_lora(the("Wan's own names, lora_A"), path, weights)
    if name == "pair":
        tensors = load_file(path)
        save_file({("transformer_2." if "blocks.0" in key else "") + key: tensors[key] for key in tensors}, path)
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[:begin] + b"\xff" * (path.stat().st_size - begin))  # not a number is left
    (tmp_path / "prompts.txt").write_text("a cat\n")
    how = ["--model", two_stage, "--lora", f"{path.name}:0.5", *SMALL, "--strength", "0", "--dry-run", "--json"]
    for words in (["generate", "-p", "a cat"], ["batch", "prompts.txt", "-o", "clips"]):
        code, out, err = shelllcc(*words, *how)
        assert code == 0, err
        assert want in json.loads(out)["loaded"][0]
        assert f"note: {json.loads(out)['loaded'][0]}" in err.splitlines()[-1]


def test_a_dry_run_of_what_guides_says_where_a_lora_goes(shelllcc, tmp_path):
    size = find_model(None).transformer["num_attention_heads"] * find_model(None).transformer["attention_head_dim"]
    pair = {"lora_A": torch.zeros(2, size), "lora_B": torch.zeros(size, 2)}
    save_file({f"blocks.0.attn1.to_q.{half}.weight": pair[half] for half in pair}, tmp_path / "x.safetensors")
    for words in (["compare", "-p", "a tabby cat", "--fit", "never"], ["fit"]):
        code, out, err = shelllcc(*words, "--lora", "x.safetensors", *SMALL, "--dry-run", "--json")
        assert code == 0, err
        assert json.loads(out)["loaded"] == ["LoRA x.safetensors: 1 layer of the transformer at 1"]


def test_a_dry_run_fetches_no_lora(shelllcc, model):
    how = ["--model", model, *SMALL, "--strength", "0", "--dry-run"]
    code, out, err = shelllcc("generate", "-p", "a cat", *how, "--lora", "somebody/style/x.safetensors", "--json")
    assert code == 0, err
    assert json.loads(out)["loaded"] == [
        "LoRA somebody/style/x.safetensors: it is not on this machine yet; where it goes is said when it is fetched"
    ]


def test_the_page_of_layouts_is_what_loading_them_says(root):
    assert (root / "docs/models.md").read_text(encoding="utf-8") == loads.page()
