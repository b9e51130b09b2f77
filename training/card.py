"""Write what the model card can be told by tables and records: `python -m training.card`

Its sections of parts, knowledge and sources come from the model's folder, vocabulary.py and photographs.py (a test
holds them to these), its figures from the records that the benchmarks left in runs/. The rest is written by hand.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import safe_open

from shelllcc.guidance.wan.model.pipeline import TINY
from shelllcc.guidance.wan.model.presets import PRESETS
from shelllcc.guidance.wan.tiny.vocabulary import FREE, LIGHTS, MOVES, SUBJECTS
from training.photographs import FREE as NO_KNOWN_RESTRICTIONS
from training.photographs import NOT_STATED, PHOTOGRAPHS, PUBLIC

CARD = TINY / "MODEL_CARD.md"
LICENCES = {
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    **dict.fromkeys((PUBLIC, NO_KNOWN_RESTRICTIONS, NOT_STATED), ""),
}


def parts(folder: Path = TINY) -> str:
    """The classes of a pipeline folder and their sizes."""
    counts = {part: f"{_parameters(folder / part) / 1e6:.1f}M" for part in ("transformer", "vae", "text_encoder")}
    config = json.loads((folder / "transformer/config.json").read_text(encoding="utf-8"))
    heads, width, layers = (config[k] for k in ("num_attention_heads", "attention_head_dim", "num_layers"))
    words = len(json.loads((folder / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    size, extra = (
        sum(path.stat().st_size for path in folder.glob(names)) / 1e6 for names in ("*/*.safetensors", "*.safetensors")
    )
    adapter = f", and {extra:.1f} MB of an adapter for four steps" if extra else ""
    usual = PRESETS["tiny"]
    transformer = f"WanTransformer3DModel, {heads} heads x {width}, {layers} layers, ffn {config['ffn_dim']}"
    rows = [
        ("part", "class", "parameters"),
        ("transformer", transformer, counts["transformer"]),
        ("VAE", f"AutoencoderKLWan, residual form, {config['in_channels']} channels, 4 x 8 x 8", counts["vae"]),
        ("text encoder", f"UMT5EncoderModel, width {config['text_dim']}", counts["text_encoder"]),
        ("tokenizer", f"one token a word, {words} words", ""),
        ("scheduler", f"UniPC, flow prediction, shift {usual.shift:g}", ""),
    ]
    sampled = (
        f"Weights are bfloat16 safetensors, {size:.1f} MB in all{adapter}; compute in float32 on a CPU. Native size "
        f"{usual.width} x {usual.height}, {usual.frames} frames; {usual.steps} steps; cfg {usual.cfg:g} by default."
    )
    return f"{_table(rows)}\n\n{_filled(sampled)}"


def knows() -> str:
    """What prompts may name."""
    files = len({photograph.file for photograph in PHOTOGRAPHS})
    form = (
        "Prompts of the form `subject, camera move, light`, in any order, and free words after them. It has seen "
        f"nothing but the {files} photographs below. Each name has a synonym (`guidance/wan/tiny/vocabulary.py`)."
    )
    tables = {f"Subjects** ({len(SUBJECTS)})": SUBJECTS, "Camera**": MOVES, "Light**": LIGHTS, "Free words**": FREE}
    named = (f"- **{kind}: {', '.join(names[0] for names in table.values())}." for kind, table in tables.items())
    return "\n".join([_filled(form), "", *map(_filled, named)])


def sources() -> str:
    """Author, licence and changes of every photograph, as CC BY asks for."""
    rows = [("subject", "file", "pixels", "author", "licence")]
    for p in PHOTOGRAPHS:
        licence = f"[{p.licence}]({LICENCES[p.licence]})" if LICENCES[p.licence] else p.licence
        rows.append(
            (SUBJECTS[p.subject][0], f"{p.package} `{p.file}`", f"{p.size[0]} x {p.size[1]}", p.author, licence)
        )
    authors = sorted({p.author for p in PHOTOGRAPHS if p.licence.startswith("CC BY")})
    changes = (
        "From the wheels of scikit-image, scikit-learn, matplotlib and scipy and Debian's lomiri-wallpapers-16.04; "
        "licences as stated there. Changes made to all: cropped, scaled, panned, zoomed, rolled, re-lit, blurred; the "
        "model makes pictures like them."
    )
    ours = (
        "The weights and the bank are Apache-2.0, with attribution to the authors of the CC BY photographs: "
        f"{'; '.join(authors)}."
    )
    return "\n\n".join([_filled(changes), _table(rows), _filled(ours)])


def measured(records: Path) -> str | None:
    """The figures of the benchmarks' records; None where one is missing but that of camera moves, which is said."""
    names = ("vae_reconstruction", "subjects", "quality-held-out")
    paths, of_moves = [records / f"{name}.json" for name in names], records / "camera_moves.json"
    if not all(path.exists() for path in paths):
        return None
    vae, subjects, quality = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    moves = json.loads(of_moves.read_text(encoding="utf-8")) if of_moves.exists() else None
    kinds = [
        (
            "clips",
            "PSNR, dB",
            "lap",
            "kurtosis of the first frame",
            "checkerboard",
            "of the source",
            "stripes",
            "of the source",
        )
    ]
    for kind, m in vae["mean"].items():
        ratios = f"{m['lap']:.2f}", f"{m['kurtosis_first']:.2f}"
        checks = (f"{m['checkerboard']:.3f}", f"{m['checkerboard_raw']:.3f}")
        kinds.append((kind, f"{m['psnr']:.1f}", *ratios, *checks, f"{m['stripes']:.1f}", f"{m['stripes_raw']:.1f}"))
    cfg = f"cfg {PRESETS['tiny'].cfg:g}"
    rows = {arm: quality["rows"][f"{cfg}, {arm}"]["columns"] for arm in ("unguided", "guided")}
    told = (f"{arm} " + ", ".join(f"{c} {row[c]:.3f}" for c in ("lap", "spec", "swd")) for arm, row in rows.items())
    gates = (gate for record in (vae, subjects, moves) if record for gate in record["gates"])
    missed = [f"{gate['name']}: {gate['figure']}" for gate in gates if not gate["held"]]
    how = "Each figure by a command of `benchmarks/` (`python -m benchmarks.remake`), on held-out camera paths."
    reconstruction = (
        f"**Reconstruction**, {vae['per_subject']} clips of each subject, mean over subjects; in sharp clips a pixel "
        "covers 2 to 3 of the photograph; lap and kurtosis over the source's, 1 is right. A linear code of the same "
        f"size gives {vae['floor']:.1f} dB on the usual ones."
    )
    points = (
        f"- **Subjects**, named by a classifier: {_right(subjects)}.",
        f"- **Camera** moves as asked, by optical flow: {_right(moves) if moves else 'not measured on these weights'}.",
        f"- **Against real clips** at {cfg}: {'; '.join(told)} (docs/quality.md tells the columns).",
        f"- **Asked for and missed**: {'; '.join(missed) or 'nothing'}.",
    )
    return "\n\n".join([_filled(how), _filled(reconstruction), _table(kinds), "\n".join(map(_filled, points))])


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, subsequent_indent="  " if text.startswith("- ") else "", break_on_hyphens=False)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])


def _right(record: Mapping[str, Any]) -> str:
    count = record["count"]
    return ", ".join(f"{count - len(wrong)} of {count} {arm}" for arm, wrong in record["wrong"].items())


def with_section(card: str, heading: str, text: str) -> str:
    """The card with another text under a heading of the second level. Raises ValueError where there is none such."""
    before, found, rest = card.partition(f"\n## {heading}\n")
    if not found:
        raise ValueError(f"the card has no section {heading}")
    _, next_heading, after = rest.partition("\n## ")
    return f"{before}{found}\n{text}\n{next_heading}{after}"


def _parameters(folder: Path) -> int:
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                count += size
    return count


def main(
    records: Annotated[Path, typer.Option(help="Where the benchmarks' records lie.")] = Path("runs"),
) -> None:
    card = CARD.read_text(encoding="utf-8")
    sections = {"Parts": parts(), "What it knows": knows(), "Sources and licences": sources()}
    figures = measured(records)
    if figures is None:
        print(f"not all records are in {records}: the card's figures stay as they are; `python -m benchmarks.remake`")
    else:
        sections["Measured"] = figures
    for heading, text in sections.items():
        card = with_section(card, heading, text)
    CARD.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
