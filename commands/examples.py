"""One example of every command, as its help shows it. Knows nothing of what they do."""

from __future__ import annotations

EXAMPLES = {
    "generate": 'generate --prompt "a tabby cat, zoom in, daylight" --compare --output cat.mp4',
    "compare": 'compare --prompt "grass, static, dusk" --strengths 0,1,2 --seeds 0,1 --output runs/grass',
    "fit": "fit --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --steps 30",
    "tune": 'tune --prompt "a tabby cat, zoom in, daylight"',
    "batch": "batch prompts.txt --output clips --strengths 0,1",
    "report": "report outputs/compare-grass outputs/tune-cat --output outputs/gallery.html",
    "score": "score clip.mp4 --bank tiny-wan",
    "doctor": "doctor --json",
    "anchors build": "anchors build videos/ --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --output bank.safetensors",
    "anchors start": "anchors start --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "anchors calibrate": "anchors calibrate bank.safetensors videos/ --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "anchors import": "anchors import shell_lcc.pth --output manifold.safetensors",
    "anchors train": "anchors train latents/ --output manifold.safetensors",
    "anchors pull": "anchors pull NAME",
    "anchors analyze": "anchors analyze tiny-wan videos/ --output study",
    "anchors info": "anchors info tiny-wan",
    "anchors list": "anchors list",
    "anchors verify": "anchors verify tiny-wan",
    "profiles list": "profiles list",
    "profiles show": "profiles show NAME",
    "profiles export": "profiles export profiles.json",
    "profiles import": "profiles import profiles.json",
    "profiles forget": "profiles forget NAME",
}


def example(command: str) -> str | None:
    """The last line of a command's help; None where it has no example."""
    return f"Example: shelllcc {EXAMPLES[command]}" if command in EXAMPLES else None
