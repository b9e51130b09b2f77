"""Examine this installation: what is here, whether it is whole, and one guided step. Knows nothing of terminals."""

from __future__ import annotations

import time

from shelllcc.guidance.errors import ShellLCCError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.versions import versions
from shelllcc.guidance.wan.model.pipeline import TINY, find_model, load_pipeline, weights_sha256


def examine() -> JsonObject:
    """The report; `ok` is False where something that `generate` needs is missing, and `problems` says what."""
    import torch

    from shelllcc.anchors.bankfile import read_bank
    from shelllcc.anchors.fingerprints import fingerprint
    from shelllcc.anchors.shelf import shipped_banks

    problems: list[str] = []
    report: JsonObject = {"ok": True, "versions": versions(), "devices": _devices(), "ffmpeg": _ffmpeg(problems)}
    report["threads"] = torch.get_num_threads()
    report["tiny_model"] = str(TINY)
    try:
        model = find_model(None)
        report["tiny_model_sha256"] = weights_sha256(TINY)
        report["tiny_model_vae"] = fingerprint(model.vae)
    except ShellLCCError as error:
        problems.append(str(error))
    report["banks"] = []
    for path in shipped_banks():
        try:
            bank = read_bank(path)
            report["banks"].append({"name": bank.name, "path": str(path), "sha256": bank.sha256, "vae": bank.vae})
        except ShellLCCError as error:
            problems.append(str(error))
    if not problems:
        try:
            report["step"] = _one_step()
        except ShellLCCError as error:
            problems.append(str(error))
    report["problems"] = problems
    report["ok"] = not problems
    return report


def _one_step() -> JsonObject:
    """Two steps of the tiny model, five frames of 64x64, the first guided: seconds, distance, size of the move.

    On one thread: so small a clip is not made sooner by two, and beside other processes much later.
    """
    from shelllcc.anchors.choose import load_bank
    from shelllcc.guidance.geometry.threads import one_thread
    from shelllcc.guidance.wan.clips.request import Request, Value
    from shelllcc.guidance.wan.clips.sample import guide_for, sample
    from shelllcc.guidance.wan.model.presets import PRESETS

    pipe = load_pipeline(find_model(None), device="cpu")
    small: dict[str, Value] = {"width": 64, "height": 64, "frames": 5, "steps": 2, "window": (0.0, 1.0)}
    request = Request.resolve(PRESETS["tiny"], prompt="a tabby cat", **small)
    started = time.perf_counter()
    with one_thread():
        clip = sample(pipe, request, guide_for(request, load_bank("auto", pipe)))
    seen = clip.trace[0]
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "sigma": seen.sigma,
        "distance": seen.distance[0],
        "move": seen.move[0],
        "frames_sha256": clip.frames_sha256,
    }


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {properties.name}, {properties.total_memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _ffmpeg(problems: list[str]) -> str:
    try:
        import imageio_ffmpeg

        from shelllcc.guidance.media.video import check_encoder

        check_encoder()
        return f"{imageio_ffmpeg.get_ffmpeg_version()} at {imageio_ffmpeg.get_ffmpeg_exe()}"
    except (ImportError, RuntimeError) as error:
        problems.append(f"ffmpeg does not run: {error}")
    except ShellLCCError as error:
        problems.append(str(error))
    return "broken"
