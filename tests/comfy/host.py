"""A program, not a test: the real ComfyUI with a clone of this repository among its nodes samples the tiny Wan.

    python tests/comfy/host.py COMFYUI LIBRARIES CLONE OUTPUT.safetensors

`make comfyui` fetches what it needs. Other folders of this repository must not be on sys.path: ComfyUI's own `comfy`
has no __init__.py, so that any other one goes before it.
"""

import asyncio
import importlib.abc
import importlib.machinery
import json
import runpy
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

STEPS, CFG, SEED = 12, 3.0, 7
SHAPE = (1, 16, 3, 8, 10)
SAMPLERS = ("euler", "lcm", "dpmpp_2m", "res_multistep", "uni_pc", "er_sde", "heun")
CUT = 9  # the step before which a sampling is split; sigma 0.5 and less from here on
FIT = dict(sampler_name="euler", scheduler="simple", steps=4, cfg=1.0, clips=6, size=64, frames=5)
MISSING = ["diffusers", "faiss", "typer", "imageio", "accelerate", "platformdirs", "imageio_ffmpeg"]
DEFAULTS = "none: the guide's defaults"

_tiny = runpy.run_path(str(Path(__file__).parent / "tiny.py"))
SHIFT, tiny_wan, tiny_vae, TinyClip = (_tiny[name] for name in ("SHIFT", "tiny_wan", "tiny_vae", "TinyClip"))


class Absent(types.ModuleType):
    """A library that PyPI has for CUDA alone; ComfyUI imports it, and a Wan needs none of it."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """What this machine has and users of ComfyUI may not: libraries that `missing` names are not found."""

    missing: tuple[str, ...] = ()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchvision", "torchaudio"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        if name.partition(".")[0] in self.missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


def image_wan():
    """A small image-to-video Wan of random weights, in Wan2.1's latents."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    kind = comfy.supported_models.WAN21_I2V(
        dict(image_model="wan2.1", model_type="i2v", dim=64, num_heads=2, ffn_dim=64, num_layers=1, text_dim=128,
             in_dim=36, out_dim=16, patch_size=(1, 2, 2), freq_dim=32, eps=1e-6)
    )  # fmt: skip
    kind.set_inference_dtype(torch.float32, None)
    model = kind.get_model({}, "")
    dice = torch.Generator().manual_seed(SEED)
    for weight in model.diffusion_model.parameters():
        weight.data = torch.randn(weight.shape, generator=dice) * 0.1
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def inputs():
    """Noise, noise levels and what the two prompts say, in place of a text encoder."""
    import torch

    dice = torch.Generator().manual_seed(SEED)
    noise = torch.randn(SHAPE, generator=dice)
    texts = [torch.randn(1, 12, 128, generator=dice) * 0.3 for _ in range(2)]
    bare = torch.linspace(1, 0, STEPS + 1)
    return noise, SHIFT * bare / (1 + (SHIFT - 1) * bare), texts


def in_windows(patcher):
    """The model, which sees no more than four of seven latent frames at once."""
    import comfy.context_windows as windows

    found = patcher.clone()
    found.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=4,
        context_overlap=1,
        context_stride=1,
        closed_loop=False,
        dim=2,
    )
    windows.create_prepare_sampling_wrapper(found)
    return found


def workflow(**more):
    """A graph as programs hand it to ComfyUI: a Wan, guided, sampled in two parts, saved and scored."""
    model, text, guided = ["1", 0], ["2", 0], ["3", 0]
    part = dict(model=guided, noise_seed=7, steps=20, cfg=5.0, sampler_name="euler", scheduler="simple")
    part |= dict(positive=["4", 0], negative=["4", 0])
    early = dict(add_noise="enable", start_at_step=0, end_at_step=15, return_with_leftover_noise="enable")
    late = dict(add_noise="disable", start_at_step=15, end_at_step=20, return_with_leftover_noise="disable")
    knobs = dict(strength=1.0, bank="auto", fit="auto", start=1.0, end=0.0) | more
    graph = {
        "1": ("UNETLoader", dict(unet_name="wan.safetensors", weight_dtype="default")),
        "2": ("CLIPLoader", dict(clip_name="umt5.safetensors", type="wan", device="default")),
        "3": ("ShellLCCGuidance", dict(model=model, **knobs)),
        "4": ("CLIPTextEncode", dict(clip=text, text="a horse")),
        "5": ("EmptyLatentImage", dict(width=832, height=480, batch_size=1)),
        "6": ("KSamplerAdvanced", dict(**part, **early, latent_image=["5", 0])),
        "7": ("KSamplerAdvanced", dict(**part, **late, latent_image=["6", 0])),
        "8": ("ShellLCCScore", dict(latent=["7", 0], bank="auto")),
        "9": ("PreviewImage", dict(images=["8", 1])),
    }
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in graph.items()}


def valid(graph, models):
    """Whether ComfyUI would run a graph, and what it says of nodes; the files that it names are made, empty."""
    import execution
    import folder_paths

    files = dict(unet_name="diffusion_models", clip_name="text_encoders", vae_name="vae", lora_name="loras")
    for node in graph.values():
        for key, kind in files.items():
            (models / kind).mkdir(parents=True, exist_ok=True)
            folder_paths.add_model_folder_path(kind, str(models / kind))
            if key in node["inputs"]:
                (models / kind / node["inputs"][key]).touch()
        if node["class_type"] == "LoadImage":
            folder_paths.set_input_directory(str(models))
            (models / node["inputs"]["image"]).touch()
    ok, _, _, told = asyncio.run(execution.validate_prompt("1", graph, None))
    return ok, [error["details"] for node in told.values() for error in node["errors"]]


def pale(stock, takes, told=None):
    """The model, but whatever it is shown, it points to the clip that was noised, with too little contrast.

    `told` gets, of each call, the clip's number and what the model is told beside the latents of an image.
    """
    import torch

    clips = torch.stack([take.latents for take in takes])
    seeds = [torch.Generator().manual_seed(number) for number in range(len(takes))]
    noises = torch.stack([torch.randn(clips.shape[1:], generator=seed) for seed in seeds])
    paler = clips.mean((2, 3, 4), keepdim=True) * 0.3 + clips * 0.7
    found = stock.clone()

    def say(asked):
        x, sigma = asked["input"], float(asked["sigma"].max())
        nearest = int((x - (1 - sigma) * clips - sigma * noises).flatten(1).norm(dim=1).argmin())
        if told is not None:
            told.append((nearest, [cond[0]["model_conds"]["c_concat"].cond for cond in asked["conds"] if cond]))
        return [paler[nearest : nearest + 1] for _ in asked["conds"]]

    found.set_model_sampler_calc_cond_batch_function(say)
    return found


def fitted(stock, tiny):
    """What the node Shell-LCC Fit makes of a model, also after an interruption; and what becomes of a clip of the tiny
    Wan's in round trips here."""
    import comfy.model_management
    import comfy.utils
    import nodes
    import torch

    from shelllcc.anchors.choose import choose_bank
    from shelllcc.comfy import fitting, models, trips
    from shelllcc.guidance.fit import shelf

    vae, clip, node = tiny_vae(tiny), TinyClip("texts.safetensors"), nodes.NODE_CLASS_MAPPINGS["ShellLCCFit"]
    asked = trips.Asked("euler", "simple", *(FIT[name] for name in ("steps", "cfg", "clips", "size", "frames")))
    takes = trips.takes_of(vae, stock, asked)
    model = pale(stock, takes)
    bar, notes = [], {"interrupted": False}

    def hook(done, total, preview, node_id=None):
        bar.append((done, total))
        if not notes["interrupted"] and len(bar) > 10:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = 0
    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        node.execute(model, vae, clip, **FIT)
    except comfy.model_management.InterruptProcessingException:
        notes["interrupted"] = True
    comfy.utils.set_progress_bar_global_hook(None)
    notes["begun"] = [path.name for path in (shelf.folder() / "begun").glob("*.json")]
    made, words = node.execute(model, vae, clip, **FIT).args
    notes |= dict(words=words, through=made is model, bar=bar)
    [path] = [
        path for path in shelf.folder().glob("*.json") if json.loads(path.read_text())["belongs"]["cfg"] == FIT["cfg"]
    ]
    notes["file"], before = path.name, path.read_text()
    notes["again"] = node.execute(model, vae, None, **FIT).ui["text"][0]  # nothing is asked of a CLIP any more
    path.unlink()
    node.execute(model, vae, clip, **FIT)
    notes["unbroken"] = path.read_text() == before
    with torch.no_grad():
        bank, _ = choose_bank("auto", models.space_of(stock), models.shapes_of(stock)[0])
        trip = trips.HostTrips([stock], vae, clip, takes, bank, asked, shape=models.shapes_of(stock)[0])
        notes["drifts"] = [asdict(trip.drift(1, config)) for config in (None, trip.guide(radius=2.0, coarse=1.3))]
        alone = trips.HostTrips([stock], vae, clip, takes, bank, asked, shape="")
        notes["alone"] = asdict(alone.drift(1, trip.guide(radius=2.0, coarse=1.3)))
        two = trips.HostTrips([stock, stock], vae, clip, takes, bank, replace(asked, switch=2), shape="")
        notes["two"] = [asdict(two.drift(1, config)) for config in (None, trip.guide(radius=2.0, coarse=1.3))]
        notes["weights"] = [models.weights_of([m]) for m in (stock, model, with_lora(stock), image_wan())]
    notes["of an image"] = fitted_of_image(stock, vae, clip)
    notes["started"] = started(stock, vae)
    notes["replayed"], notes["tail"], notes["levels"] = trip.replayed, trip.tail, trip.levels
    for name, call in {
        "guided already": lambda: fitting.make_fit([guided_by(stock)], vae, clip, asked),
        "switch": lambda: fitting.make_fit([stock, stock], vae, clip, asked),
        "vae": lambda: fitting.make_fit([stock], SimpleNamespace(latent_channels=48), clip, replace(asked, steps=3)),
    }.items():
        try:
            call()
        except Exception as error:
            notes[name] = str(error)
    return notes


def fitted_of_image(stock, vae, clip):
    """What the node Shell-LCC Fit makes of an image-to-video model, and what it tells it of each clip's image."""
    import nodes
    import torch

    from shelllcc.anchors.choose import choose_bank
    from shelllcc.comfy import models, trips
    from shelllcc.guidance.fit import shelf

    start = image_wan()
    asked = trips.Asked("euler", "simple", *(FIT[name] for name in ("steps", "cfg", "clips", "size", "frames")))
    start.model.latent_format, start.model.model_sampling = stock.model.latent_format, stock.model.model_sampling
    takes, told, notes = trips.takes_of(vae, start, asked), [], {}
    made, words = nodes.NODE_CLASS_MAPPINGS["ShellLCCFit"].execute(pale(start, takes, told), vae, clip, **FIT).args
    print_, frames = models.shapes_of(start)[0], takes[0].latents.shape[1]
    fits = {path.name: json.loads(path.read_text()) for path in shelf.folder().glob("*.json")}
    [(notes["file"], fit)] = [(name, fit) for name, fit in fits.items() if fit["transformer"] == print_]
    notes |= dict(words=words, image_to_video=made.model.image_to_video, guide=fit["guide"], calls=len(told))
    masks = {tuple(models.known_frames([{"model_conds": {"c_concat": SimpleNamespace(cond=c)}}], frames))
             for _, conds in told for c in conds}  # fmt: skip
    notes["given"] = sorted(map(list, masks))
    firsts = [take.latents[:, :1] for take in takes]

    def apart(number, channels):
        return float((channels[0, 4:, :1].detach() - firsts[number]).std() / firsts[number].std())

    notes["apart"] = max(apart(number, channels) for number, conds in told for channels in conds)
    notes["others"] = min(apart(number - 1, channels) for number, conds in told for channels in conds)
    with torch.no_grad():
        bank, _ = choose_bank("auto", models.space_of(start), print_)
        trip = trips.HostTrips([start], vae, clip, takes, bank, asked, shape=print_)
        notes["drifts"] = [asdict(trip.drift(1, config)) for config in (None, trip.guide(radius=2.0, coarse=1.3))]
    return notes


def started(stock, vae):
    """The starter bank of latents that no bank is of, by its file's name; and how often it was told of."""
    from shelllcc.comfy import models, starting

    usual, told = stock.model.latent_format, []
    stock.model.latent_format = other = type(usual)()
    other.latents_mean = usual.latents_mean + 0.01
    shape = models.shapes_of(stock)[0]
    try:
        bank = starting.bank_or_start("auto", shape, stock, vae, side=64, on_clip=lambda *done: told.append(done))
        again = starting.bank_or_start("auto", shape, stock, vae, on_clip=None)
    finally:
        stock.model.latent_format = usual
    return dict(file=bank.path.name, same=bank.identity == again.identity, vae=bank.vae, told=told)


def guided_by(stock):
    import nodes

    return nodes.NODE_CLASS_MAPPINGS["ShellLCCGuidance"].execute(stock, 1.0, "auto", DEFAULTS, 1.0, 0.0).args[0]


def with_lora(stock):
    """The model with an adapter on one of its weights."""
    import torch

    found = stock.clone()
    weight = found.model.diffusion_model.head.head.weight
    found.add_patches({"diffusion_model.head.head.weight": (torch.ones_like(weight),)}, 0.5)
    return found


def examples(host, root):
    """What ComfyUI says of the example workflows, in the form of programs, by name."""
    import nodes

    for name in ("hunyuan", "video", "model_advanced", "wan", "logic", "primitive"):
        assert asyncio.run(nodes.load_custom_node(str(host / f"comfy_extras/nodes_{name}.py"))), name
    graphs = {path.stem: json.loads(path.read_text()) for path in (root / "tests/comfy/workflows").glob("*.json")}
    return {name: valid(graph, Path.cwd() / "models") for name, graph in graphs.items()}


def of_wan21(latents):
    """Normalised latents as Wan2.1's VAE would have them."""
    import comfy.latent_formats

    return comfy.latent_formats.Wan21().process_out(latents)


def begin(host, libraries, clone):
    """Be ComfyUI's guest, with the clone's nodes; what ComfyUI's users may not have is missing from then on."""
    root = clone.resolve()
    here = {root, root / ".cache/typing", Path(__file__).resolve().parent}
    sys.path[:] = [str(host), str(libraries), *(p for p in sys.path if Path(p or ".").resolve() not in here)]
    finder = Finder()
    sys.argv = ["main.py", "--cpu"]
    import transformers  # noqa: F401 - before torchvision is there for it to find

    sys.meta_path.insert(0, finder)
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sample
    import nodes

    finder.missing = tuple(name for name in MISSING if name not in sys.modules)
    assert asyncio.run(nodes.load_custom_node(str(clone))), "ComfyUI did not load the clone"
    return finder


def main(host, libraries, clone, output):
    root, finder = clone.resolve(), begin(host, libraries, clone)
    import comfy.sample
    import comfy.samplers
    import nodes
    import torch
    from safetensors.torch import save_file

    guidance, score = (nodes.NODE_CLASS_MAPPINGS[name] for name in ("ShellLCCGuidance", "ShellLCCScore"))
    noise, sigmas, (positive, negative) = inputs()
    stock = tiny_wan(root / "guidance/wan/tiny")
    results, notes = {}, {}

    def guided(strength=1.0, bank="auto", fit=DEFAULTS, start=1.0, end=0.0, **more):
        return guidance.execute(stock, strength, bank, fit, start, end, **more).args[0]

    def sample(
        model, sampler="euler", sigmas=sigmas, noise=noise, latents=None, cfg=CFG, seed=SEED, callback=None, **given
    ):
        latents = torch.zeros_like(noise) if latents is None else latents
        solver = comfy.samplers.sampler_object(sampler)
        conds = ([[positive, given]], [[negative, given]])
        return comfy.sample.sample_custom(  # clones: uni_pc writes into its noise levels
            model,
            noise.clone(),
            cfg,
            solver,
            sigmas.clone(),
            *conds,
            latents,
            disable_pbar=True,
            seed=seed,
            callback=callback,
        )

    def keep(name, latents):
        results[name] = stock.model.latent_format.process_in(latents.float()).contiguous()

    def refused(name, call):
        try:
            call()
            notes[name] = ""
        except BaseException as error:  # as an interruption is
            notes[name] = f"{type(error).__name__}: {error}"

    node = guided()
    for sampler in SAMPLERS:
        keep(f"{sampler}.stock", sample(stock, sampler))
        keep(f"{sampler}.off", sample(guided(0.0), sampler))
        keep(f"{sampler}.guided", sample(node, sampler))
    sample(node, seed=SEED + 1, noise=noise.flip(0, 4))
    keep("euler.again", sample(node))
    keep("euler.cfg1", sample(node, cfg=1.0))
    keep("euler.above", sample(guided(start=0.0009, end=0.0), "euler"))
    keep("euler.batch", sample(node, noise=torch.cat([noise, noise.flip(3)])))
    keep("euler.flipped", sample(node, noise=noise.flip(3)))
    for sampler in ("euler", "heun"):
        for cut in (CUT, CUT + 1):
            first = sample(node, sampler, sigmas[: cut + 1])
            nothing = torch.zeros_like(noise)
            keep(f"{sampler}.halves{cut}", sample(guided(), sampler, sigmas[cut:], nothing, first))
    keep("fit", sample(guided(fit="auto")))
    many = torch.cat([noise, noise.flip(2), noise[:, :, :1]], 2)
    keep("windows.stock", sample(in_windows(stock), noise=many))
    keep("windows.guided", sample(in_windows(node), noise=many))

    def stop(step, *_):
        if step == CUT + 1:
            raise comfy.model_management.InterruptProcessingException

    refused("interrupted", lambda: sample(node, callback=stop))
    keep("euler.after", sample(node))
    notes["fitted"] = fitted(stock, root / "guidance/wan/tiny")
    four = comfy.samplers.calculate_sigmas(stock.get_model_object("model_sampling"), "simple", FIT["steps"])
    keep("own fit", sample(guided(fit="auto"), sigmas=four, cfg=FIT["cfg"]))
    notes["workflow"] = valid(workflow(), Path.cwd() / "models")
    notes["examples"] = examples(host, root)
    notes["no such fit"] = valid(workflow(fit="gone"), Path.cwd() / "models")
    shown = (Path(folder) / "docs" for folder in nodes.EXTENSION_WEB_DIRS.values())
    notes["help"] = sorted(page.name for folder in shown for page in folder.iterdir())
    given = dict(concat_latent_image=torch.zeros(SHAPE), concat_mask=torch.ones(1, 1, *SHAPE[2:]))
    given["concat_mask"][:, :, :1] = 0  # of an image in front, as WanImageToVideo has it
    start = image_wan()
    node_of_image = guidance.execute(start, 1.0, "wan21", DEFAULTS, 1.0, 0.0).args[0]
    for name, model in (("stock", start), ("guided", node_of_image)):
        keep(f"image.{name}", sample(model, sigmas=torch.tensor([0.4, 0.2]), **given))
    keep("front", sample(guided(trim_latent=1)))
    notes["score"] = score.execute({"samples": of_wan21(results["euler.stock"])}, "wan21").args[0]
    refused("twice", lambda: guidance.execute(node, 1.0, "auto", DEFAULTS, 1.0, 0.0))
    refused("unfitted", lambda: sample(guided(fit="auto"), sigmas=torch.tensor([1.0, 0.9, 0.0])))
    refused("rising", lambda: sample(node, sigmas=sigmas.flip(0)))
    refused("all front", lambda: sample(guided(trim_latent=3)))
    refused("scored", lambda: score.execute({"samples": torch.zeros(1, 4, 8, 8)}, "auto"))
    stock.model.latent_format = comfy.latent_formats.Wan22()
    refused("channels", lambda: sample(guided()))
    stock.model.latent_format = comfy.latent_formats.Wan21()
    stock.model.__class__ = type("QwenImage", (comfy.model_base.BaseModel,), {})
    refused("image model", lambda: guided())
    notes["imported"] = sorted(set(finder.missing) & sys.modules.keys())
    save_file(results, output, {"notes": json.dumps(notes)})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
