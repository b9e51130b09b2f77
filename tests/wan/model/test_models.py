"""Full-size models in small: every kind of Wan, loaded in every way, samples; what cannot be loaded says why."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from benchmarks.wan_geometry import TOY_TEXT, TOY_TRANSFORMER, TOY_VAE, tokenizer
from shelllcc.anchors.fingerprints import pipeline_fingerprint
from shelllcc.guidance.errors import ModelError, SamplingError, UsageError
from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import sample, set_shift
from shelllcc.guidance.wan.model import loras, weights
from shelllcc.guidance.wan.model.caches import cached, check_cache
from shelllcc.guidance.wan.model.loading import CHOICES, Loading, Lora
from shelllcc.guidance.wan.model.pipeline import TINY, check_loading, find_model, load_pipeline, load_text_encoder
from shelllcc.guidance.wan.model.placing import place, reset
from shelllcc.guidance.wan.model.presets import PRESETS, WAN_NEGATIVE, preset_for

TRANSFORMER = TOY_TRANSFORMER | dict(attention_head_dim=32, num_layers=3, freq_dim=64)
VAE_5B = TOY_VAE | dict(
    z_dim=48, decoder_base_dim=8, in_channels=12, out_channels=12, is_residual=True, patch_size=2,
    scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
)  # fmt: skip
EMBEDS = torch.randn(2, 1, 8, 32, generator=torch.Generator().manual_seed(5))
KINDS = ("wan2.1", "a14b", "5b")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Toys are too small to share out among threads."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved pipelines of every kind, made once."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "model"
            toy(kind).save_pretrained(made[kind])
        return str(made[kind])

    return make


def toy(kind):
    torch.manual_seed(0)
    channels = 48 if kind == "5b" else 16
    shape = TRANSFORMER | dict(in_channels=channels, out_channels=channels)
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(UMT5Config(**TOY_TEXT)),
        transformer=WanTransformer3DModel(**shape),
        transformer_2=WanTransformer3DModel(**shape) if kind == "a14b" else None,
        vae=AutoencoderKLWan(**(VAE_5B if kind == "5b" else TOY_VAE)),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        boundary_ratio=0.875 if kind == "a14b" else None,
        expand_timesteps=kind == "5b",
    )


def latents_of(pipe, *, steps=4, cfg=5.0, seed=0, cache="none"):
    """Final latents of a small clip, from embeddings."""
    given = dict(prompt_embeds=EMBEDS[0], negative_prompt_embeds=EMBEDS[1])
    number = torch.Generator().manual_seed(seed)
    with cached(pipe, cache, steps=steps):
        return pipe(**given, height=64, width=64, num_frames=5, num_inference_steps=steps, guidance_scale=cfg,
                    generator=number, output_type="latent").frames  # fmt: skip


def held_bytes(module):
    """Bytes of a module's weights as they are stored, those inside of quantized tensors too."""
    return sum(stored(weight) for weight in module.parameters())


def stored(weight):
    names = [n for n in getattr(weight, "tensor_data_names", ()) if torch.is_tensor(getattr(weight, n))]
    if names:
        return sum(stored(getattr(weight, name)) for name in names)
    return weight.numel() * weight.element_size()


def request_for(**values):
    small = dict(prompt="a cat", width=64, height=64, frames=5, steps=2)
    return Request.resolve(PRESETS["diffusers-480p"], **small | values)


def original_names(tensors):
    """A transformer's weights under the names of Wan's own files."""
    inverse = {
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "attn1": "self_attn", "attn2": "cross_attn", ".to_out.0.": ".o.", ".to_q.": ".q.", ".to_k.": ".k.",
        ".to_v.": ".v.", "proj_out": "head.head", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
        "norm2": "norm?", "norm3": "norm2", "norm?": "norm3",
    }  # fmt: skip
    renamed = {}
    for name, tensor in tensors.items():
        name = "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation")
        for theirs, own in inverse.items():
            name = name.replace(theirs, own)
        renamed[name] = tensor
    return renamed


def lora_tensors(*, prefix="transformer.", scale=0.5, width=64, seed=3):
    """A rank 2 adapter of the queries of two blocks."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in (0, 2):
        layer = f"{prefix}blocks.{block}.attn1.to_q"
        tensors[f"{layer}.lora_A.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = scale * torch.randn(width, 2, generator=generator)
    return tensors


@pytest.fixture
def lora_file(tmp_path):
    def write(name="style.safetensors", **options):
        save_file(lora_tensors(**options), tmp_path / name)
        return str(tmp_path / name)

    return write


def load(folder, kind="wan2.1", **options):
    return load_pipeline(find_model(folder(kind)), Loading(**options), device="cpu", text_encoder=False)


def missing(monkeypatch, *libraries):
    real = weights.importlib.util.find_spec
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None if name in libraries else real(name))


def far(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("kind", "grid"), [("wan2.1", (16, 16)), ("a14b", (16, 16)), ("5b", (32, 32))])
def test_every_kind_of_wan_is_found_loaded_and_sampled(kind, grid, folder):
    model = find_model(folder(kind))
    assert model.grid == grid
    assert model.two_stage == (kind == "a14b")
    pipe = load_pipeline(model, device="cpu")
    assert pipe.vae.dtype == torch.float32
    request = request_for(cfg_2=3.0 if kind == "a14b" else None, shift=12.0 if kind == "a14b" else 3.0, steps=4)
    clip = sample(pipe, request)
    assert clip.frames.shape == (5, 64, 64, 3)
    assert clip.latents.shape[1] == (48 if kind == "5b" else 16)
    other = sample(pipe, replace(request, cfg_2=1.5)) if kind == "a14b" else sample(pipe, replace(request, seed=1))
    assert not torch.equal(other.latents, clip.latents)


def test_a_model_and_its_pipeline_ask_for_the_same_calibration(folder):
    found = {kind: find_model(folder(kind)).fingerprint for kind in KINDS}
    assert {kind: pipeline_fingerprint(load(folder, kind)) for kind in KINDS} == found
    assert len(set(found.values())) == 3  # one shape, one stage or two


def test_presets_follow_the_model():
    def chosen(width, name="", vae=None, two_stage=False, **about):
        transformer = {"num_attention_heads": width // 128, "attention_head_dim": 128} | about
        return preset_for(transformer, two_stage=two_stage, vae=vae, name=name)

    assert chosen(512).name == "tiny"
    assert chosen(1536, vae={"z_dim": 16}).name == "wan-1.3b-480p"
    assert chosen(5120).name == "wan-official"
    assert chosen(5120, two_stage=True).name == "wan2.2-a14b"
    assert chosen(3072, vae={"z_dim": 48}).name == "wan2.2-5b"
    image = {"in_channels": 36, "out_channels": 16}
    assert chosen(5120, name="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", **image).name == "wan2.1-i2v-480p"
    assert chosen(5120, name="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", **image).name == "wan2.1-i2v-720p"
    assert chosen(5120, two_stage=True, **image).name == "wan2.2-i2v-a14b"
    both = image | {"pos_embed_seq_len": 514}
    assert chosen(5120, name="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers", **both).name == "wan2.1-flf2v-720p"
    facts = {
        name: (p.width, p.height, p.frames, p.fps, p.steps, p.cfg, p.shift, p.cfg_2) for name, p in PRESETS.items()
    }
    assert facts["wan-official"] == (1280, 720, 81, 16, 50, 5.0, 5.0, None)
    assert facts["wan-1.3b-480p"] == (832, 480, 81, 16, 50, 6.0, 8.0, None)
    assert facts["wan2.2-a14b"] == (1280, 720, 81, 16, 40, 4.0, 12.0, 3.0)
    assert facts["wan2.2-5b"] == (1280, 704, 121, 24, 50, 5.0, 5.0, None)
    assert facts["shelllcc-paper"] == (1280, 720, 49, 16, 40, 5.0, 5.0, None)
    assert facts["wan2.1-i2v-480p"] == (832, 480, 81, 16, 40, 5.0, 3.0, None)  # Wan2.1's generate.py, _validate_args
    assert facts["wan2.1-i2v-720p"] == (1280, 720, 81, 16, 40, 5.0, 5.0, None)
    assert facts["wan2.1-flf2v-720p"] == (1280, 720, 81, 16, 50, 5.0, 16.0, None)
    assert facts["wan2.2-i2v-a14b"] == (1280, 720, 81, 16, 40, 3.5, 5.0, 3.5)  # Wan2.2's wan/configs/wan_i2v_A14B.py
    assert all(p.frames % 4 == 1 for p in PRESETS.values())
    common, shaking, cut = (
        WAN_NEGATIVE,
        "镜头晃动，",
        "镜头切换，",
    )  # Wan2.1's wan_i2v_14B.py and __init__.py
    negatives = {name: p.negative_prompt for name, p in PRESETS.items()}
    assert negatives["wan2.1-i2v-480p"] == negatives["wan2.1-i2v-720p"] == shaking + common
    assert negatives["wan2.1-flf2v-720p"] == cut + shaking + common
    assert negatives["wan2.2-i2v-a14b"] == negatives["wan2.2-5b"] == common  # Wan2.2 has one for all


def test_a_hub_id_may_name_a_revision(folder, monkeypatch):
    asked = []

    def download(repo, name, revision=None):
        asked.append((repo, revision))
        return f"{folder('wan2.1')}/{name}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert find_model("owner/name@v2").source == "owner/name@v2"
    assert set(asked) == {("owner/name", "v2")}

    def refuse(repo, **options):
        raise OSError(f"{repo} at {options['revision']}")

    monkeypatch.setattr(AutoencoderKLWan, "from_pretrained", refuse)
    with pytest.raises(ModelError, match="cannot load the VAE of owner/name@v2: owner/name at model"):
        load_pipeline(find_model("owner/name@v2"), device="cpu")
    find_model("owner/name")
    assert asked[-1] == ("owner/name", None)


def test_a_pipeline_without_its_text_encoder_samples_from_embeddings_as_one_with_it(folder):
    model = find_model(folder("wan2.1"))
    bare, whole = load_pipeline(model, device="cpu", text_encoder=False), load_pipeline(model, device="cpu")
    assert bare.text_encoder is None
    assert bare.tokenizer is None
    assert torch.equal(latents_of(bare), latents_of(whole))


def test_a_text_encoder_alone_encodes_as_the_whole_pipeline_does(folder):
    model = find_model(folder("a14b"))
    alone, whole = load_text_encoder(model, device="cpu"), load_pipeline(model, device="cpu")
    assert (alone.transformer, alone.transformer_2, alone.vae) == (None, None, None)
    assert alone._execution_device == torch.device("cpu")
    for embedding, expected in zip(alone.encode_prompt("a cat"), whole.encode_prompt("a cat"), strict=True):
        assert torch.equal(embedding, expected)
    assert load_text_encoder(model, Loading(dtype="bfloat16"), device="cpu").text_encoder.dtype == torch.bfloat16


@pytest.mark.parametrize("held", ["shared.weight", "encoder.embed_tokens.weight"])
def test_an_untied_text_encoder_reads_the_embeddings_that_its_file_holds(held, folder, tmp_path):
    """As in Wan's own checkpoints: of the two names of one matrix their file has one, and nothing ties them."""
    whole = load_pipeline(find_model(folder("wan2.1")), device="cpu")
    copied = tmp_path / "model"
    shutil.copytree(folder("wan2.1"), copied)
    config = json.loads((copied / "text_encoder/config.json").read_text()) | {"tie_word_embeddings": False}
    (copied / "text_encoder/config.json").write_text(json.dumps(config))
    tensors = {name: tensor.clone() for name, tensor in whole.text_encoder.state_dict().items()}
    matrix = {name: tensors.pop(name, None) for name in ("shared.weight", "encoder.embed_tokens.weight")}
    tensors[held] = next(tensor for tensor in matrix.values() if tensor is not None)
    save_file(tensors, copied / "text_encoder/model.safetensors", {"format": "pt"})
    for _ in range(2):  # what is not initialised differs
        alone = load_text_encoder(find_model(str(copied)), device="cpu")
        for read, expected in zip(alone.encode_prompt("a cat"), whole.encode_prompt("a cat"), strict=True):
            assert torch.equal(read, expected)


def test_dtype_and_tiling_are_honoured(folder):
    pipe = load(folder, "a14b", dtype="bfloat16", tiling=True)
    assert pipe.transformer.dtype == pipe.transformer_2.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32
    assert pipe.vae.use_tiling
    assert not load(folder).vae.use_tiling


@pytest.mark.parametrize("names", ["diffusers", "original", "comfy"])
def test_a_single_file_takes_the_place_of_a_transformer(names, folder, tmp_path):
    pipe = load(folder, "a14b")
    tensors = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    tensors["proj_out.weight"] *= 1.5
    if names != "diffusers":
        tensors = original_names(tensors)
        assert "blocks.0.self_attn.q.weight" in tensors
    if names == "comfy":
        tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "other.safetensors")
    file = str(tmp_path / "other.safetensors")
    swapped = load(folder, "a14b", transformer_2=file)
    with torch.no_grad():
        pipe.transformer_2.load_state_dict(pipe.transformer.state_dict())
        pipe.transformer_2.proj_out.weight *= 1.5
    for name, tensor in pipe.transformer_2.state_dict().items():
        assert torch.equal(swapped.transformer_2.state_dict()[name], tensor), name
    assert torch.equal(latents_of(swapped), latents_of(pipe))


def test_a_gguf_file_takes_the_place_of_a_transformer(folder, tmp_path):
    pytest.importorskip("gguf", reason="reading .gguf needs the library gguf")
    import gguf

    pipe = load(folder)
    writer = gguf.GGUFWriter(tmp_path / "q8.gguf", "wan")
    for name, tensor in original_names(pipe.transformer.state_dict()).items():
        array = tensor.numpy()
        if array.ndim == 2 and "blocks" in name:
            packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed = load(folder, transformer=str(tmp_path / "q8.gguf"))
    assert held_bytes(packed.transformer) < 0.6 * held_bytes(pipe.transformer)
    assert 0 < far(latents_of(packed), latents_of(pipe)) < 0.02


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.with_suffix(".ckpt"), "is a .safetensors or a .gguf"),
        (lambda path: path, "no file"),
        (lambda path: path.write_bytes(b"text") and path, "cannot load"),
        (lambda path: save_file({"a.b": torch.ones(2)}, path) or path, "holds no transformer of Wan"),
        (lambda path: save_file({"scaled_fp8": torch.ones(2)}, path) or path, "holds no transformer of Wan"),
        (lambda path: save_file({"blocks.0.ffn.0.weight": torch.ones(2)}, path) or path, "is for another Wan"),
    ],
)
def test_a_file_that_is_no_transformer_of_the_model_is_told_in_one_line(make, said, folder, tmp_path):
    with pytest.raises(ModelError, match=said) as error:
        load(folder, transformer=str(make(tmp_path / "x.safetensors")))
    assert "\n" not in str(error.value)
    assert "x." in str(error.value)


def test_what_cannot_be_is_told_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    model, two = find_model(folder("wan2.1")), find_model(folder("a14b"))
    for offload in ("model", "group"):
        with pytest.raises(UsageError, match="nothing to offload from"):
            load_pipeline(model, Loading(offload=offload), device="cpu")
        with pytest.raises(UsageError, match="nothing to offload from"):
            load_text_encoder(model, Loading(offload=offload), device="cpu")
    with pytest.raises(UsageError, match="second transformer"):
        check_loading(model, Loading(transformer_2="x.safetensors"), "cpu")
    with pytest.raises(UsageError, match="needs a GPU"):
        check_loading(two, Loading(quantize="nf4"), "cpu")
    with pytest.raises(UsageError, match="use --offload model"):
        check_loading(two, Loading(quantize="nf4", offload="group"), "cuda")
    with pytest.raises(ModelError, match="no LoRA at"):
        check_loading(two, Loading(loras=(Lora("./none.safetensors"),)), "cpu")
    with pytest.raises(ModelError, match="give it as --transformer"):
        find_model(str(tmp_path / "wan.safetensors"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    missing(monkeypatch, "peft", "gguf", "torchao", "bitsandbytes")
    for loading, library, extra in (
        (Loading(loras=(Lora("style.safetensors"),)), "peft", "lora"),
        (Loading(transformer=str(tmp_path / "x.gguf")), "gguf", "gguf"),
        (Loading(quantize="int8"), "torchao", "int8"),
        (Loading(quantize="nf4"), "bitsandbytes", "nf4"),
    ):
        with pytest.raises(ModelError, match=rf"needs the library {library}: pip install 'shelllcc\[{extra}\]'"):
            check_loading(model, loading, "cuda")


def test_a_lora_acts_by_its_weight(folder, lora_file):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    file = lora_file(scale=0.002)
    plain = latents_of(load(folder))
    moved = {w: latents_of(load(folder, loras=(Lora(file, w),))) - plain for w in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(moved[0.0], torch.zeros_like(plain), atol=1e-5, rtol=0)
    assert far(moved[1.0], 2 * moved[0.5]) < 0.2
    assert far(plain + moved[1.0], plain) > 1e-4
    both = load(folder, loras=(Lora(file, 1.0), Lora(file, -1.0)))
    torch.testing.assert_close(latents_of(both), plain, atol=1e-4, rtol=1e-3)


def test_a_lora_is_the_same_as_its_product_added_to_the_weights(folder, lora_file):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    tensors = lora_tensors()
    merged = load(folder)
    with torch.no_grad():
        for block in (0, 2):
            layer = f"transformer.blocks.{block}.attn1.to_q"
            product = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
            merged.transformer.blocks[block].attn1.to_q.weight += 0.7 * product
    guided = load(folder, loras=(Lora(lora_file(), 0.7),))
    torch.testing.assert_close(latents_of(guided), latents_of(merged), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "prefix", "parts"),
    [
        ("style.safetensors", "transformer.", ("transformer", "transformer_2")),
        ("style_high_noise.safetensors", "transformer.", ("transformer",)),
        ("style-LowNoise.safetensors", "transformer.", ("transformer_2",)),
        ("slow_noise_art.safetensors", "transformer.", ("transformer", "transformer_2")),
        ("style.safetensors", "transformer_2.", ("transformer_2",)),
        ("style.safetensors", "diffusion_model.", ("transformer", "transformer_2")),
    ],
)
def test_a_lora_goes_to_the_transformers_that_it_is_for(name, prefix, parts, folder, tmp_path):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    tensors = lora_tensors(prefix=prefix)
    if prefix == "diffusion_model.":
        tensors = {key.replace("attn1.to_q", "self_attn.q"): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / name)
    pipe = load(folder, "a14b", loras=(Lora(str(tmp_path / name), 0.5),))
    taken = [part for part in ("transformer", "transformer_2") if getattr(getattr(pipe, part), "peft_config", None)]
    assert tuple(taken) == parts
    for part in parts:
        assert getattr(pipe, part).blocks[0].attn1.to_q.scaling == {"lora_0": 0.5}
        layer = getattr(pipe, part).blocks[0].attn1.to_q.lora_B["lora_0"].weight
        torch.testing.assert_close(layer, lora_tensors()["transformer.blocks.0.attn1.to_q.lora_B.weight"])


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("Wan2.2-Lightning_T2V-A14B-4steps-lora_HIGH_fp16", "high"),
        ("Wan2.2-Lightning_T2V-A14B-4steps-lora_LOW_fp16", "low"),
        ("wan22-t2v-high-lora-rank64", "high"),
        ("WAN2.2-HighNoise_style", "high"),
        ("Instagirl_v2_hinoise", "high"),
        ("style_H", "high"),
        ("style_L", "low"),
        ("yellow_noise/wan_high_noise", "high"),
        ("highnoise/style_low_noise", "low"),
        ("high_noise/pytorch_lora_weights", "high"),
        ("wan22_low_poly_high", "high"),
        ("high_heels_low_noise", "low"),
        *((name, None) for name in ("slow_noise_art", "yellow_noise_style", "highlander", "lownoise_vs_highnoise")),
        *((name, None) for name in ("low_poly_art", "high-contrast", "below_zero", "lows", "H_style", "low/style")),
    ],
)
def test_whole_words_of_a_files_own_name_say_its_noise(name, stage):
    assert loras.stage_of(f"/loras/{name}.safetensors") == stage


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("style:0.8@high", {"high": 0.8}),
        ("style@low", {"low": 1.0}),
        ("style:3@high:1.5@low", {"high": 3.0, "low": 1.5}),
        ("style:-1@both", {"high": -1.0, "low": -1.0}),
        ("c:/a@home/style:0.5", {"weight": 0.5}),
        ("owner/name@home", {}),
    ],
)
def test_a_lora_says_which_transformers_it_is_for(text, weights):
    lora = Lora.parse(text)
    assert lora == Lora(lora.source, **weights)
    assert Lora.parse(str(lora)) == lora
    assert Loading.from_recipe(Loading(loras=(lora,)).recipe()).loras == (lora,)
    if not {"high", "low"} & weights.keys():
        assert set(lora.as_dict()) == {"source", "weight"}


@pytest.mark.parametrize(
    "text", ["x:0.8@hgih", "x:1@high:2@high", "x:1@high:2@both", "x:0.5:1@low", "x:a@high", ":1@low"]
)
def test_a_stage_that_is_none_is_told(text):
    with pytest.raises(UsageError, match=r"--lora takes PATH_OR_ID"):
        Lora.parse(text)


def test_a_lora_goes_where_it_is_sent_and_it_is_said(folder, lora_file, caplog):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    file = lora_file("style_high.safetensors")
    for text, high, low in (
        ("", 1.0, None),
        (":0.8@low", None, 0.8),
        (":3@high:1.5@low", 3.0, 1.5),
        ("@both", 1.0, 1.0),
    ):
        caplog.clear()
        pipe = load(folder, "a14b", loras=(Lora.parse(file + text),))
        layers = [getattr(pipe, part).blocks[0].attn1.to_q for part in ("transformer", "transformer_2")]
        assert [getattr(layer, "scaling", {}).get("lora_0") for layer in layers] == [high, low]
        stages = {stage: weight for stage, weight in (("high", high), ("low", low)) if weight is not None}
        said = [f"2 layers of the transformer for {stage} noise at {w:g}" for stage, w in stages.items()]
        assert caplog.messages[0].startswith(f"LoRA style_high.safetensors: {', '.join(said)}")
        assert ("as its name says" in caplog.messages[0]) == (not text)
    with pytest.raises(UsageError, match="two transformers"):
        load(folder, loras=(Lora.parse(f"{file}@high"),))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"no tensors"), "cannot load the LoRA"),
        (lambda path: save_file({"text_encoder.q.lora_A.weight": torch.ones(2, 4)}, path), "fits no layer"),
        (lambda path: save_file(lora_tensors(width=48), path), "is for another Wan"),
        (lambda path: save_file(lora_tensors(prefix="transformer.other."), path), "LoRA"),
        (lambda path: save_file({"weight": torch.ones(2)}, path), "LoRA"),
    ],
)
def test_a_lora_that_fits_nothing_is_an_error_of_one_line(write, said, folder, tmp_path):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    write(tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=said) as error:
        load(folder, loras=(Lora(str(tmp_path / "bad.safetensors")),))
    assert "\n" not in str(error.value)
    assert "bad.safetensors" in str(error.value)


def test_where_a_lora_is_found(tmp_path):
    (tmp_path / "one").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "one/a.safetensors")
    assert loras.find_lora(str(tmp_path / "one")) == (str(tmp_path / "one"), "a.safetensors")
    assert loras.find_lora(str(tmp_path / "one/a.safetensors")) == (str(tmp_path / "one"), "a.safetensors")
    assert loras.find_lora("owner/name") == ("owner/name", None)
    assert loras.find_lora("owner/name/sub/file.safetensors") == ("owner/name", "sub/file.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "one/b.safetensors")
    for wrong in (str(tmp_path / "one"), "none.safetensors", "loras/none.safetensors", "/none/there"):
        with pytest.raises(ModelError, match=r"LoRA|2 \.safetensors"):
            loras.find_lora(wrong)


@pytest.mark.parametrize(("quantize", "libraries"), [("fp8", ("peft",)), ("int8", ("peft", "torchao"))])
def test_quantized_weights_take_fewer_bytes_and_give_nearly_the_same(quantize, libraries, folder, lora_file):
    for library in libraries:
        pytest.importorskip(library, reason=f"{quantize} with a LoRA needs the library {library}")
    dtype = "bfloat16"
    plain, small = load(folder, "a14b", dtype=dtype), load(folder, "a14b", dtype=dtype, quantize=quantize)
    for part in ("transformer", "transformer_2"):
        blocks = [getattr(pipe, part).blocks for pipe in (plain, small)]
        assert held_bytes(blocks[1]) < 0.65 * held_bytes(blocks[0])
        kept = getattr(small, part)
        assert kept.blocks[0].norm2.weight.dtype == getattr(plain, part).blocks[0].norm2.weight.dtype
        assert kept.condition_embedder.time_proj.weight.dtype == torch.bfloat16
    assert 0 < far(latents_of(small), latents_of(plain)) < 0.1
    with_lora = load(folder, "a14b", dtype=dtype, quantize=quantize, loras=(Lora(lora_file()),))
    assert with_lora.transformer.blocks[0].attn1.to_q.lora_A["lora_0"].weight.element_size() >= 2
    assert held_bytes(with_lora.transformer) < 1.05 * held_bytes(small.transformer)
    assert far(latents_of(with_lora), latents_of(load(folder, "a14b", dtype=dtype, loras=(Lora(lora_file()),)))) < 0.1


@pytest.mark.parametrize("name", CHOICES["cache"][1:])
@pytest.mark.parametrize("kind", ["wan2.1", "a14b", "5b"])
def test_a_cache_computes_less_and_every_sampling_alike(name, kind, folder):
    pipe = load(folder, kind)
    computed, asked = {"cond": 0, "uncond": 0}, []

    def listen(_model, _args, given):
        asked.append("cond" if torch.equal(given["encoder_hidden_states"], EMBEDS[0]) else "uncond")

    def count(*_):
        computed[asked[-1]] += 1

    for model in filter(None, (pipe.transformer, pipe.transformer_2)):
        model.register_forward_pre_hook(listen, with_kwargs=True)
        model.blocks[-1].attn1.to_q.register_forward_hook(count)
    plain, full = latents_of(pipe, steps=16), dict(computed)
    first = latents_of(pipe, steps=16, cache=name)
    less = {call: computed[call] - full[call] for call in computed}
    assert all(0 < less[call] < full[call] for call in full)
    assert less["cond"] == less["uncond"] or name == "first-block"  # it alone decides call by call
    assert torch.equal(latents_of(pipe, steps=16, cache=name), first)
    assert 0 < far(first, plain) < 0.2
    assert torch.equal(latents_of(pipe, steps=16), plain)


def test_a_cache_may_begin_at_low_noise(folder):
    pipe = load(folder, "a14b")
    set_shift(pipe, 1.0)  # the second transformer's first timestep is 666, where attention may be reused
    assert latents_of(pipe, steps=3, cache="pab").isfinite().all()


@pytest.mark.parametrize("name", CHOICES["cache"][1:])
def test_a_cache_is_gone_after_an_exception(name, folder):
    pipe = load(folder)
    plain, whole = latents_of(pipe, steps=8), latents_of(pipe, steps=8, cache=name)

    def stop(_pipe, index, _timestep, _state):
        if index == 5:
            raise SamplingError("stopped by the test")
        return {}

    given = dict(prompt_embeds=EMBEDS[0], negative_prompt_embeds=EMBEDS[1], num_inference_steps=8, output_type="latent")
    with pytest.raises(SamplingError), cached(pipe, name, steps=8):
        pipe(**given, height=64, width=64, num_frames=5, callback_on_step_end=stop)
    reset(pipe)
    assert not pipe.transformer.is_cache_enabled
    assert torch.equal(latents_of(pipe, steps=8, cache=name), whole)
    assert torch.equal(latents_of(pipe, steps=8), plain)


def test_a_cache_that_cannot_work_says_so():
    wan = dict(num_layers=40, num_attention_heads=40, attention_head_dim=128)
    for name in CHOICES["cache"]:
        check_cache(name, wan)
    with pytest.raises(ModelError, match="two blocks or more"):
        check_cache("first-block", wan | {"num_layers": 1})


def test_groups_are_streamed_and_give_the_same(folder, monkeypatch):
    from shelllcc.guidance.wan.model import placing

    model = find_model(folder("a14b"))
    plain, grouped = (load_pipeline(model, device="cpu") for _ in range(2))
    monkeypatch.setattr(placing, "check_offload", lambda *_: None)  # stand-in for a GPU: both sides are the CPU
    place(grouped, "group", "cpu")
    hooked = {
        part: sum(
            "group_offloading" in module._diffusers_hook.hooks
            for module in getattr(grouped, part).modules()
            if hasattr(module, "_diffusers_hook")
        )
        for part in ("transformer", "transformer_2", "text_encoder")
    }
    assert hooked["transformer"] == hooked["transformer_2"] > 10 * TRANSFORMER["num_layers"]
    assert hooked["text_encoder"] > 5
    request = request_for(shift=12.0, steps=3)
    assert np.array_equal(sample(grouped, request).frames, sample(plain, request).frames)
    reset(grouped)
    assert np.array_equal(sample(grouped, request).frames, sample(plain, request).frames)


def test_guidance_works_in_the_stock_image_to_video_pipeline(bank):
    from diffusers import WanImageToVideoPipeline
    from PIL import Image

    from shelllcc import ShellGuide
    from shelllcc.guidance.guide.config import GuideConfig
    from shelllcc.guidance.guide.scheduler import guided

    text = toy("wan2.1")
    pipe = WanImageToVideoPipeline(
        tokenizer=text.tokenizer,
        text_encoder=text.text_encoder,
        vae=text.vae,
        scheduler=text.scheduler,
        transformer=WanTransformer3DModel(**TRANSFORMER | dict(in_channels=36)),
    )
    pipe.set_progress_bar_config(disable=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    kind = type(pipe.scheduler)

    def latents(guide=None):
        given = dict(prompt_embeds=EMBEDS[0], negative_prompt_embeds=EMBEDS[1], height=64, width=64, num_frames=5)
        given |= dict(num_inference_steps=4, output_type="latent", generator=torch.Generator().manual_seed(0))
        if guide is None:
            return pipe(image=picture, **given).frames
        with guided(pipe, guide):
            return pipe(image=picture, **given).frames

    plain = latents()
    guide = ShellGuide(bank, GuideConfig(strength=0.5, window=(0.0, 1.0)))
    moved = latents(guide)
    assert moved.shape == plain.shape == (1, 16, 2, 8, 8)
    assert [step.index for step in guide.trace] == [0, 1, 2]
    assert 0 < far(moved, plain) < 1
    assert torch.equal(latents(ShellGuide(bank, GuideConfig(strength=0.0))), plain)
    assert type(pipe.scheduler) is kind


def test_a_path_to_the_embedded_model_is_the_embedded_model(monkeypatch):
    own = find_model(None)
    monkeypatch.chdir(TINY.parent)
    assert find_model("tiny") == own
    assert find_model(f"./{TINY.name}") == own
    assert find_model(str(TINY / ".." / TINY.name)) == own
