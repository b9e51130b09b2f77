"""A program, not a test: how long ComfyUI samples the tiny Wan guided, over unguided, on two cores. It prints JSON.

python tests/comfy/timing.py COMFYUI LIBRARIES CLONE [THREADS [PAIRS]]

Pairs of one sampling each, by turns, the first of a pair changing; what is told is the median over pairs of the ratio,
in seconds and in seconds of cores. The latter hardly minds what else this machine computes; `load` says how much
that was.
"""

import json
import os
import runpy
import statistics
import sys
import time
from pathlib import Path

STEPS, CFG = 12, 3.0
SHAPE = (1, 16, 5, 24, 24)  # 17 frames of 192 x 192: what the tiny Wan was made for


def main(host, libraries, clone, threads="2", pairs="5"):
    guest = runpy.run_path(str(Path(__file__).parent / "host.py"))
    guest["begin"](host, libraries, clone)
    import comfy.sample
    import comfy.samplers
    import nodes
    import torch

    torch.set_num_threads(int(str(threads)))
    stock = guest["tiny_wan"](clone.resolve() / "guidance/wan/tiny")
    node = nodes.NODE_CLASS_MAPPINGS["ShellLCCGuidance"]
    models = {"unguided": stock, "guided": node.execute(stock, 1.0, "auto", guest["DEFAULTS"], 1.0, 0.0).args[0]}
    _, _, (positive, negative) = guest["inputs"]()
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(stock.get_model_object("model_sampling"), "simple", STEPS)
    solver, nothing = comfy.samplers.sampler_object("euler"), torch.zeros(SHAPE)
    clocks = {"seconds": time.perf_counter, "of cores": time.process_time}  # the latter also where others compute
    taken = {clock: {name: [] for name in models} for clock in clocks}
    load = os.getloadavg()[0]
    for pair in range(int(str(pairs)) + 1):
        for name in sorted(models, reverse=bool(pair % 2)):
            began = {clock: read() for clock, read in clocks.items()}
            comfy.sample.sample_custom(
                models[name], noise, CFG, solver, sigmas, [[positive, {}]], [[negative, {}]], nothing,
                disable_pbar=True, seed=0,
            )  # fmt: skip
            for clock, read in clocks.items():
                taken[clock][name] += [read() - began[clock]] if pair else []  # the first is warming up
    told = {f"{name}, {clock}": statistics.median(taken[clock][name]) for clock in clocks for name in models}
    for clock, of in taken.items():
        ratios = [guided / unguided for guided, unguided in zip(of["guided"], of["unguided"], strict=True)]
        told |= {f"ratio, {clock}": statistics.median(ratios), f"least ratio, {clock}": min(ratios)}
    told |= {"load before": load, "load after": os.getloadavg()[0]}
    print(json.dumps({name: round(value, 4) for name, value in told.items()}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
