"""Which LoRAs and transformers load: each layout, for a toy Wan: `python -m benchmarks.loads` writes docs/models.md

Every row is loaded as users load it and held against weights that were merged by hand: it acts whole, or the line that
it must say is said. tests/wan/model/test_loads.py tries each row. Knows nothing of real files.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from benchmarks.file_layouts import FILES, File, write_file
from benchmarks.lora_layouts import ADAPTERS, Row, write_lora
from benchmarks.wan_geometry import TOY_TEXT, TOY_TRANSFORMER, TOY_VAE, tokenizer
from shelllcc.guidance.errors import ShellLCCError
from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline, remarked

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
SHAPE = TOY_TRANSFORMER | dict(attention_head_dim=32, num_layers=3, freq_dim=64)


def toy(folder: Path, *, two_stage: bool = False) -> str:
    """A toy Wan, saved, with a transformer or two; its path."""
    torch.manual_seed(0)
    WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(UMT5Config(**TOY_TEXT)),
        transformer=WanTransformer3DModel(**SHAPE),
        transformer_2=WanTransformer3DModel(**SHAPE) if two_stage else None,
        boundary_ratio=0.875 if two_stage else None,
        vae=AutoencoderKLWan(**TOY_VAE),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ).save_pretrained(folder)
    return str(folder)


def load(folder: str, **options: Any) -> WanTransformer3DModel:
    return load_pipeline(find_model(folder), Loading(**options), device="cpu", text_encoder=False).transformer


@torch.no_grad()
def output(transformer: WanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 2, 8, 8, generator=generator)
    words = torch.randn(1, 8, SHAPE["text_dim"], generator=generator)
    said: Tensor = transformer(latents, torch.tensor([500]), words, return_dict=False)[0]
    return said.float()


def merged(folder: str, deltas: Mapping[str, Tensor], weight: float = 1.0) -> WanTransformer3DModel:
    """The toy with a LoRA's effect added to its weights."""
    transformer = load(folder)
    with torch.no_grad():
        for name, delta in deltas.items():
            transformer.get_parameter(name).add_(weight * delta)
    return transformer


def told(action: Callable[[], object]) -> tuple[bool, list[str]]:
    """Whether a loading came to its end, and what was said."""
    with remarked() as lines:
        try:
            action()
        except ShellLCCError as error:
            return False, [str(error)]
    return True, lines


def main() -> None:
    logging.getLogger("shelllcc").propagate = False
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page, as Markdown: each row as it went."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = toy(folder / "model")
        weights = {name: w.detach() for name, w in load(model).state_dict().items()}
        adapters, files = [], []
        for row in ADAPTERS:
            write_lora(row, path := folder / "x.safetensors", weights)
            went, lines = told(lambda path=path: load(model, loras=(Lora(str(path)),)))  # type: ignore[misc]
            adapters.append(_line(row, went, lines, place))
        for file in FILES:
            write_file(file, path := folder / f"x{file.suffix}", weights)
            went, lines = told(lambda path=path: load(model, transformer=str(path)))  # type: ignore[misc]
            files.append(_line(file, went, lines, place))
    return f"{HEAD}\n{LORAS}\n{TABLE}" + "\n".join(adapters) + f"\n\n{TRANSFORMERS}\n{TABLE}" + "\n".join(files) + "\n"


HEAD = """# Which files load

Every row was made for a toy Wan, loaded, and held against weights merged by hand: `python -m benchmarks.loads` writes
this page, `tests/wan/model/test_loads.py` tries each row. What a file holds is applied exactly, or said in one line.
"""
LORAS = """## LoRAs

`--lora FILE`, `FILE:WEIGHT`, and for the two transformers of Wan2.2-A14B `FILE:WEIGHT@high`, `@low`, `@both` or
`FILE:WEIGHT@high:WEIGHT@low`. Products stay beside the weights; differences (`.diff`) are added to them, and to
quantized ones put beside; so are LoHa, LoKr and DoRA, whose whole change of a weight is multiplied by WEIGHT. A name
prefixed `transformer_2.` is for low noise. `--dry-run` says which transformer each goes to and how many layers it
changes, by the file's header alone; what is on the hub it does not fetch.
"""
TRANSFORMERS = """## Transformers in one file

`--transformer FILE` and, for the low noise of Wan2.2-A14B, `--transformer-2 FILE`, beside the `--model` it was made
for. Scaled weights are multiplied out when they are read and take the room of `--dtype`; `--quantize fp8` makes them
small again.
"""
TABLE = "\n| layout | names like | what comes of it |\n|---|---|---|\n"


def _line(row: Row | File, went: bool, lines: list[str], place: str) -> str:
    unused = [line.partition(": ")[2] for line in lines if "not applied" in line or "not used" in line]
    lines = [line.replace(f"{place}/", "") for line in lines]
    result = f"refused: {lines[0]}" if not went else f"in part: {unused[0]}" if unused else "whole"
    example = row.example if row.example.startswith("as ") else f"`{row.example}`"
    return f"| {row.layout} | {example} | {result} |"


if __name__ == "__main__":
    main()
