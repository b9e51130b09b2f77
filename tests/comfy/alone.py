"""A program, not a test: the nodes of a clone where torch, numpy and safetensors are all there is, and a small
stand-in of `comfy_api`. It prints what they did as JSON.

    python tests/comfy/alone.py CLONE
"""

import asyncio
import importlib.util
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

MISSING = (
    *("diffusers", "transformers", "faiss", "typer", "rich", "imageio", "accelerate", "platformdirs", "filelock"),
    *("huggingface_hub", "tokenizers", "ftfy", "PIL", "matplotlib", "scipy"),
)


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class Declared:
    """`io.Schema`, `io.Float.Input` and the like: what they are told is kept."""

    def __init__(self, *words, **named):
        self.args, self.named = words, named


def stand_in():
    kinds = {
        name: SimpleNamespace(Input=Declared, Output=Declared)
        for name in ["Model", "Float", "Combo", "Int", "Latent", "Image", "Vae", "Clip", "Conditioning", "String"]
    }
    io = SimpleNamespace(ComfyNode=object, Schema=Declared, NodeOutput=Declared, **kinds)
    latest = types.ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = io, object
    samplers = types.ModuleType("comfy.samplers")
    samplers.KSampler = SimpleNamespace(SAMPLERS=["euler"], SCHEDULERS=["simple"])
    sys.modules |= {"comfy_api": types.ModuleType("comfy_api"), "comfy_api.latest": latest}
    sys.modules |= {"comfy": types.ModuleType("comfy"), "comfy.samplers": samplers}


def loaded(clone):
    """The root of the clone as ComfyUI loads it: under a name made of its path."""
    name = str(clone).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, clone / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class WAN21:
    """What a node reads of ComfyUI's model of that name."""

    def __init__(self, tiny):
        import torch

        config, vae = (json.loads((tiny / part / "config.json").read_text()) for part in ("transformer", "vae"))
        heads = config["num_attention_heads"]
        shape = dict(num_layers=config["num_layers"], num_heads=heads, dim=heads * config["attention_head_dim"])
        self.model_config = SimpleNamespace(unet_config=shape | dict(ffn_dim=config["ffn_dim"], text_dim=128))
        self.latent_format = SimpleNamespace(
            latent_channels=16, **{name: torch.tensor(vae[name]) for name in ("latents_mean", "latents_std")}
        )
        self.model_sampling = SimpleNamespace(shift=3.0)


class Patcher:
    def __init__(self, model):
        self.model, self.wrappers, self.after = model, {}, None

    def clone(self):
        return Patcher(self.model)

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def set_model_sampler_post_cfg_function(self, function):
        self.after = function


def sample(patcher, sigmas, x0, conds=()):
    """What comes back for the same x0 at every noise level."""
    import torch

    def all_levels(_noise, _latents, _sampler, levels):
        return torch.stack(
            [
                patcher.after(dict(denoised=x0, cond_denoised=x0, uncond=None, sigma=s[None], cond=conds))
                for s in levels[:-1]
            ]
        )

    all_levels.class_obj = SimpleNamespace(model_patcher=patcher, cfg=1.0)
    [wrapper] = patcher.wrappers["outer_sample"]["shelllcc"]
    return wrapper(all_levels, torch.zeros_like(x0), torch.zeros_like(x0), SimpleNamespace(), sigmas)


def main(clone):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (clone.resolve(), clone / ".cache/typing")]
    sys.meta_path.insert(0, Finder())
    stand_in()
    nodes = {node.define_schema().named["node_id"]: node for node in asyncio.run(nodes_of(loaded(clone)))}
    import torch

    import shelllcc

    patcher = Patcher(WAN21(clone / "guidance/wan/tiny"))
    guidance = nodes["ShellLCCGuidance"]
    words = ("auto", "none: the guide's defaults", 1.0, 0.0)
    torch.manual_seed(0)
    x0 = torch.randn(1, 16, 3, 8, 10)
    sigmas = torch.linspace(1, 0, 11)
    [guided] = guidance.execute(patcher, 1.0, *words).args
    moved = (sample(guided, sigmas, x0) - x0).flatten(1).abs().amax(1).tolist()
    image = torch.zeros(1, 20, 3, 8, 10)
    image[:, :4, 0] = 1
    given = [{"model_conds": {"c_concat": SimpleNamespace(cond=image)}}]
    frames = (sample(guided, sigmas, x0, given)[-3] - x0).abs().amax((0, 1, 3, 4)).tolist()
    [front] = guidance.execute(patcher, 1.0, *words, trim_latent=2).args
    behind = (sample(front, sigmas, x0)[-3] - x0).abs().amax((0, 1, 3, 4)).tolist()
    off = guidance.execute(patcher, 0.0, *words).args[0] is patcher
    found = dict(nodes=sorted(nodes), moved=moved, frames=frames, behind=behind, off=off, home=shelllcc.__file__)
    print(json.dumps(found | {"missing": sorted(set(MISSING) & sys.modules.keys())}))


async def nodes_of(module):
    extension = await module.comfy_entrypoint()
    return await extension.get_node_list()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
