"""The embedded tiny Wan as ComfyUI has models: a MODEL, a VAE and a CLIP. Imported where ComfyUI is."""

import json
from pathlib import Path

SHIFT = 3.0


def wan_name(name):
    """A tensor of diffusers' WanTransformer3DModel by Wan's own name, which ComfyUI has."""
    for theirs, wans in {
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "proj_out": "head.head",
        ".attn1.": ".self_attn.",
        ".attn2.": ".cross_attn.",
        ".to_q.": ".q.",
        ".to_k.": ".k.",
        ".to_v.": ".v.",
        ".to_out.0.": ".o.",
        ".norm2.": ".norm3.",
        ".ffn.net.0.proj.": ".ffn.0.",
        ".ffn.net.2.": ".ffn.2.",
        ".scale_shift_table": ".modulation",
    }.items():
        name = name.replace(theirs, wans)
    return "head.modulation" if name == "scale_shift_table" else name


def tiny_wan(tiny):
    """The embedded Wan as ComfyUI's model, in a patcher."""
    import comfy.latent_formats
    import comfy.model_patcher
    import comfy.supported_models
    import torch
    from safetensors.torch import load_file

    config = json.loads((tiny / "transformer/config.json").read_text())
    vae = json.loads((tiny / "vae/config.json").read_text())
    kind = comfy.supported_models.WAN21_T2V(
        dict(
            image_model="wan2.1",
            model_type="t2v",
            dim=config["num_attention_heads"] * config["attention_head_dim"],
            num_heads=config["num_attention_heads"],
            ffn_dim=config["ffn_dim"],
            num_layers=config["num_layers"],
            text_dim=config["text_dim"],
            in_dim=16,
            out_dim=16,
            patch_size=(1, 2, 2),
            freq_dim=256,
            eps=1e-6,
        )
    )
    kind.set_inference_dtype(torch.float32, None)
    model = kind.get_model({}, "")
    weights = {}
    for file in sorted((tiny / "transformer").glob("*.safetensors")):
        weights |= {wan_name(name): tensor.float() for name, tensor in load_file(file).items()}
    missing, unused = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing, missing
    assert not unused, unused

    class Tiny(comfy.latent_formats.Wan21):
        def __init__(self):
            super().__init__()
            for name in ("latents_mean", "latents_std"):
                setattr(self, name, torch.tensor(vae[name]).view(1, -1, 1, 1, 1))

    model.latent_format = Tiny()
    model.model_sampling.set_parameters(shift=SHIFT, multiplier=1000)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def vae_name(name):
    """A tensor of diffusers' AutoencoderKLWan, of the kind of Wan2.2's, by Wan's own name."""
    for theirs, wans in {
        "post_quant_conv": "conv2",
        "quant_conv": "conv1",
        "mid_block.attentions.0.": "middle.1.",
        "mid_block.resnets.0.": "middle.0.",
        "mid_block.resnets.1.": "middle.2.",
        "conv_in.": "conv1.",
        "norm_out.": "head.0.",
        "conv_out.": "head.2.",
        "norm1.": "residual.0.",
        "conv1.": "residual.2.",
        "norm2.": "residual.3.",
        "conv2.": "residual.6.",
        "conv_shortcut.": "shortcut.",
    }.items():
        inside = ".resnets." in name or ".middle." in name
        if theirs in ("norm1.", "conv1.", "norm2.", "conv2.", "conv_shortcut.") and not inside:
            continue
        name = name.replace(theirs, wans)
    part, _, rest = name.partition(".")
    if "_blocks." not in rest:
        return name
    kind, number, what, *more = rest.split(".")
    whole = "downsamples" if kind == "down_blocks" else "upsamples"
    place = more.pop(0) if what == "resnets" else {"down_blocks": "1", "up_blocks": "2"}[kind]
    return ".".join([part, whole, number, whole, place, *more])


def tiny_vae(tiny):
    """The embedded model's VAE as ComfyUI's: one of Wan2.2's kind, smaller."""
    from functools import partial

    import comfy.ldm.wan.vae2_2
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    config = json.loads((tiny / "vae/config.json").read_text())
    names = dict(dim=config["base_dim"], dec_dim=config["decoder_base_dim"], z_dim=config["z_dim"])
    names |= {name: config[name] for name in ("dim_mult", "num_res_blocks", "temperal_downsample")}
    [file] = (tiny / "vae").glob("*.safetensors")
    weights = {vae_name(name): tensor.float() for name, tensor in load_file(file).items()}
    kind = comfy.ldm.wan.vae2_2.WanVAE
    comfy.ldm.wan.vae2_2.WanVAE = lambda **_: partial(kind, **names)()
    try:
        vae = comfy.sd.VAE(sd=weights, dtype=torch.float32)
    finally:
        comfy.ldm.wan.vae2_2.WanVAE = kind
    expected = vae.first_stage_model.state_dict()
    assert expected.keys() == weights.keys(), expected.keys() ^ weights.keys()
    vae.latent_channels = config["z_dim"]
    vae.upscale_ratio, vae.downscale_ratio = (
        (frames, 8, 8) for frames in (vae.upscale_ratio[0], vae.downscale_ratio[0])
    )
    return vae


class TinyClip:
    """What the embedded model's text encoder said, by prompt, behind the two calls that nodes make of a CLIP."""

    def __init__(self, file):
        from safetensors.torch import load_file

        self.said = load_file(file)

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        return [[self.said[text or "(none)"], {}]]


class TinyWan:
    """A node for trials: MODEL, VAE and CLIP of the embedded model, whose texts lie in the folder that is ComfyUI's."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("MODEL", "VAE", "CLIP")
    FUNCTION = "load"
    CATEGORY = "loaders"

    def load(self):
        tiny = Path(__file__).resolve().parents[2] / "guidance/wan/tiny"
        return tiny_wan(tiny), tiny_vae(tiny), TinyClip("texts.safetensors")


NODE_CLASS_MAPPINGS = {"TinyWan": TinyWan}
