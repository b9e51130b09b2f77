"""docs/schemas/: a JSON Schema for what each command prints with --json. `make docs` writes them.

Knows nothing of what commands do. tests/commands/test_schemas.py holds the files to this table, and what commands
print to the files. VERSION is in every `$id`: its second number rises with a new key, its first where one goes or
means something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.measures.balance import Alarm
from shelllcc.guidance.measures.figures import RATIOS
from shelllcc.guidance.measures.verdict import Word

VERSION = "1.0"
FOLDER = Path(__file__).with_suffix("")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def of(kind: str, what: str, **more: Any) -> Schema:
    return {"type": kind, "description": what, **more}


def number(what: str, **more: Any) -> Schema:
    return of("number", what, **more)


def whole(what: str, least: int = 0, **more: Any) -> Schema:
    return of("integer", what, minimum=least, **more)


def text(what: str, **more: Any) -> Schema:
    return of("string", what, **more)


def yes(what: str, **more: Any) -> Schema:
    return of("boolean", what, **more)


def hexes(what: str, digits: int) -> Schema:
    return text(what, pattern=f"^[0-9a-f]{{{digits}}}$")


def several(what: str, each: Schema, **more: Any) -> Schema:
    return of("array", what, items=each, **more)


def table(what: str, each: Schema) -> Schema:
    """An object whose keys are names that are not known beforehand."""
    return of("object", what, additionalProperties=each)


def record(what: str, keys: Mapping[str, Schema], *, optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object of exactly these keys, and perhaps the optional ones."""
    return of(
        "object",
        what,
        properties=dict(keys) | dict(optional or {}),
        required=list(keys),
        additionalProperties=False,
    )


def or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    return schema | {"type": [kind, "null"]} if kind else {"anyOf": [schema, {"type": "null"}]}


def part(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


PATH = text("A path on the machine that ran the command.")
PAGE = text("An HTML page, where it lies.")
PROMPT, SEED = text("What the clip shows."), whole("Of the noise.")
SHA256 = hexes("Of the file.", 64)
FRAMES_SHA256 = hexes("Of the clip's frames, 8 bit RGB, before encoding.", 64)
STRENGTH = number("Of the guidance: 0 is off, 1 the default.", minimum=0)
SIGMA = number("Noise level, 0 to 1.", minimum=0, maximum=1)
LINES = several("What loading said of LoRAs and of a transformer's file.", text("One line."))
NOTED = or_null(text("The alarm that stands: too much detail, or too little.", enum=[*get_args(Alarm), None]))
VERSIONS = table(
    "Of Python, this package and the libraries behind a clip.", or_null(text("Null where it is not installed."))
)

KINDS: Mapping[str, Schema] = {"int": {"type": "integer"}, "bool": {"type": "boolean"}, "float": {"type": "number"}}
PAIR: Schema = {"type": "array", "items": SIGMA, "minItems": 2, "maxItems": 2}
KNOBS: Mapping[str, Schema] = {
    knob.name: (PAIR if str(knob.type).startswith("tuple") else KINDS[str(knob.type)])
    | {"description": f"A knob of the guide; GuideConfig in guidance/guide/config.py says what `{knob.name}` does."}
    for knob in fields(GuideConfig)
}

REQUEST = record(
    "What was sampled, and with which guide.",
    {
        "prompt": PROMPT,
        "negative_prompt": text("What to avoid."),
        "seed": SEED,
        "width": whole("In pixels.", 16),
        "height": whole("In pixels.", 16),
        "frames": whole("Of the clip, 4n+1.", 1),
        "fps": whole("Frames a second, of the file.", 1),
        "steps": whole("Of the sampler.", 1),
        "cfg": number("Classifier-free guidance."),
        "cfg_2": or_null(number("That of a second transformer; null where it has the first one's.")),
        "shift": number("Flow shift of the noise levels."),
        "preset": text("Whose defaults it has."),
        "scheduler": text("A short name; empty for the model's own."),
        "sigmas": several("Noise levels that were given, falling; empty where steps and shift make them.", SIGMA),
        **KNOBS,
    },
    optional={
        "image": hexes("The sha256 of the file that is the first frame.", 64),
        "last_image": hexes("The sha256 of the file that is the last frame.", 64),
    },
)
MODEL = record(
    "The model.",
    {
        "source": text("A folder or hub id, or tiny."),
        "revision": or_null(text("A commit, or a fingerprint of its files.")),
    },
)
LORA = of("object", "An adapter: `source`, its weights, and where they go.", additionalProperties=True)
LOADING = record(
    "How the model was loaded, as far as it decides on frames.",
    {
        "quantize": or_null(text("none, fp8, int8 or nf4.")),
        "tiling": yes("Whether it is decoded in tiles."),
        "transformer": or_null(text("A file in place of the model's transformer.")),
        "transformer_2": or_null(text("The same for the second one.")),
        "loras": several("Adapters.", LORA),
        "cache": or_null(text("A feature cache.")),
        "fingerprints": table("Of the local files, by path.", text("A digest.")),
    },
)
BANK_OF_CLIP = record(
    "The bank that guides; null where none does.",
    {
        "name": text("By which it is named."),
        "path": PATH,
        "sha256": or_null(SHA256),
        "identity": text("A digest of its shell alone."),
        "calibration": or_null(text("A digest of the calibration in force.")),
    },
)
STEP = record(
    "One step of the guide. Lists have a number for each clip of the batch, which is one.",
    {
        "index": whole("Of the step, from 0."),
        "sigma": SIGMA,
        "distance": several("Median distance of patches from the bank's anchors; 1 is real video's.", number("")),
        "target": number("The calibrated radius at this sigma, in the same unit."),
        "excess": several("Logarithm of what cfg added to the distance.", number("")),
        "aimed": several("The radius aimed at, in the coarsest direction.", number("")),
        "move": several("RMS of the move, in normalised latents.", number("")),
        "gain": several("Logarithm of what the moves so far made of the detail.", number("")),
    },
    optional={"alarm": NOTED},
)
BAND = record(
    "Drift of a band of detail: logarithms of an amplitude over that of real clips; 0 is right.",
    {
        "name": text("Which band."),
        "before": number("Unguided."),
        "before_error": number("Its standard error."),
        "after": number("Guided."),
        "after_error": number("Its standard error."),
    },
)
BELONGS = record(
    "What a fit was made for.",
    {
        "bank": text("Identity of the bank."),
        "calibration": or_null(text("A digest.")),
        "weights": text("A digest of the weights with their adapters."),
        "scheduler": text("Its short name or class."),
        "steps": whole("Of the sampler.", 1),
        "cfg": number("Classifier-free guidance."),
        "cfg_2": or_null(number("That of a second transformer.")),
        "shift": number("Flow shift."),
    },
    optional={"sigmas": several("Noise levels that were given.", SIGMA)},
)
FIT_KEYS: Mapping[str, Schema] = {
    "format": text("Of fits."),
    "belongs": part("belongs"),
    "guide": record("All knobs of the guide, at strength 1.", KNOBS),
    "bands": several("Evidence: finest detail first, then the contrast, then flat places.", part("band")),
    "clips": several("Captions of the clips that came back as they were.", text("")),
    "left_out": several("Captions of those that did not.", text("")),
    "seed": SEED,
    "sigma": SIGMA,
    "size": several("Width and height in pixels, and frames, of the clips.", whole("", 1), minItems=3, maxItems=3),
    "model": text("Its name."),
    "bank": text("Its name."),
    "versions": VERSIONS,
    "digest": hexes("Of all the other keys.", 64),
}
SHAPE_OF_MODEL = {"transformer": text("A fingerprint of the model's shape.")}
FIT = record("A fit: how the guide is set, and why.", FIT_KEYS, optional=SHAPE_OF_MODEL)
FIGURES: Mapping[str, Schema] = {
    "lap": number("Variance of the grey Laplacian, in grey levels of 1 squared: sharpness."),
    "hf": number("Share of the power in high frequencies."),
    "kurtosis": number("Of the gradients."),
    "flat": number("Deviation of the Laplacian in the flattest blocks, in grey levels of 255."),
    "busy": number("The same in the busiest blocks."),
    "jitter": number("Second difference over time, in grey levels of 255."),
    "contrast": number("Spread of grey values."),
}
POWER = {"power": several("log10 of the radial power spectrum, in 47 rings from coarse to fine.", number(""))}
DISTANCE = {"distance": number("Median distance of the latents from the shell over that of real clips.")}
BESIDE: Mapping[str, Schema] = {
    **{f"{name}_ratio": number(f"`{name}` over the reference's.") for name in RATIOS},
    "noise": number("Deviation of noise that was added, in grey levels of 255."),
    "spectrum": number("Mean difference of log10 power."),
    "fine": number("The same, signed, in the finest third of the rings."),
    "change": number("Mean difference of a pixel's colours, 0 to 1."),
}
BALANCE = {"balance": number("Detail against distance: above 0 too much, below too little.")}
METRICS = record(
    "Figures of each clip, and with two of the guided one beside the unguided one.",
    {},
    optional={
        **{label: part("figures") for label in ("guided", "unguided")},
        **BESIDE,
    },
)
CUT = of("object", "What of a prompt the text encoder does not read.", additionalProperties=True)
PLAN: Mapping[str, Schema] = {
    "request": part("request"),
    "model": part("model"),
    "loading": part("loading"),
    "bank": or_null(part("bank")),
    "compare": yes("Whether the unguided clip and both side by side are made, too."),
    "videos": table("The files, by label.", PATH),
    "sidecar": PATH,
}
VERDICT = record("In words.", {"word": text("The word.", enum=[*get_args(Word)]), "why": text("One sentence.")})
IMAGES = {"images": table("Copies of the images that lie beside the clip.", PATH)}
CLIP = record(
    "One clip: its sidecar.",
    {
        **PLAN,
        "device": text("That sampled it."),
        "dtype": text("Of the transformer."),
        "scheduler": text("Its class."),
        "versions": VERSIONS,
        "frames_sha256": table("By label.", FRAMES_SHA256),
        "seconds": table("How long each stage took, in seconds.", number("")),
        "metrics": part("metrics"),
        "trace": several("Every step of the guide.", part("step")),
        "alarm": NOTED,
        "fit": or_null(part("fit")),
        "sha256": table("By label.", SHA256),
    },
    optional={**IMAGES, "cut": table("By field of the request.", CUT), "loaded": LINES, "verdict": VERDICT},
)
GB = number("In GB, 1e9 bytes.")
MEMORY = record(
    "What a size of clip takes, counted on shapes.",
    {
        "width": whole("In pixels."),
        "height": whole("In pixels."),
        "frames": whole("Of the clip."),
        "cfg": number("Classifier-free guidance."),
        "parameters": table("Of each part.", whole("")),
        "latents": several("Their shape, (b c t h w).", whole("", 1)),
        "dtype": text("Of the transformer."),
        "step_TFLOP": number("Of one step."),
        "step_seconds": table("Of one step, by kind of GPU, in seconds.", number("")),
        "GB": table("By stage.", record("In GB, 1e9 bytes.", {"weights": GB, "work": GB, "peak": GB})),
        "peak_GB": GB,
        "peak_GB_with": table("By flags.", GB),
    },
)
DRY = {"dry_run": yes("Nothing was made.", const=True)}
PLANNED = record("One clip that would be made.", PLAN, optional=IMAGES)
KNOB = {
    "type": ["number", "boolean", "array", "string"],
    "description": "The value of a knob.",
    "items": {"type": "number"},
}
SETTINGS = table("What differs in it.", KNOB)
JUDGED = record(
    "A clip of an item, the reference first.",
    {
        "label": text("Of its file."),
        "title": text("For people."),
        "video": text("Its file in the run's folder."),
        "width": whole("In pixels."),
        "height": whole("In pixels."),
        "frames": whole("Of the clip."),
        "settings": SETTINGS,
        "figures": record(
            "Its own, and beside the reference.", {}, optional={**FIGURES, **DISTANCE, **BESIDE, **BALANCE}
        ),
        "verdict": VERDICT,
        "trace": several("Every step of the guide.", part("step")),
    },
)
ITEM = record(
    "A prompt and seed, or the videos that were given.",
    {
        "idx": whole("Of the item, from 0."),
        "prompt": text("The prompt, or the videos' names."),
        "seed": or_null(SEED),
        "fps": number("Frames a second."),
        "clips": several("The reference first.", part("judged")),
        "side_by_side": or_null(text("A video, in the run's folder.")),
        "montage": or_null(text("A still with enlarged places.")),
        "trace_plot": or_null(text("The guide's trace, drawn.")),
    },
)
PROFILE_KEYS: Mapping[str, Schema] = {
    "name": hexes("Of the profile.", 12),
    "strength": STRENGTH,
    "settings": of("object", "The request, as far as the strength depends on it.", additionalProperties=True),
    "model": of("object", "The model, and how it is loaded.", required=["source", "revision"]),
    "bank": of("object", "The bank: its name, and its identity or sha256.", required=["name"]),
    "balance": number("At that strength; 0 is right."),
    "probes": several(
        "Strengths that were tried.",
        record("One.", {"strength": STRENGTH, "balance": number("Mean over seeds."), "alarm": yes("Of any clip.")}),
    ),
    "seeds": several("That were tried.", SEED),
    "created": text("ISO 8601, UTC."),
}
CALIBRATION = {"calibration": or_null(text("A digest."))}
PROFILE = record("The strength that a prompt needs.", PROFILE_KEYS, optional=CALIBRATION)
TUNED = record(
    "A profile.",
    PROFILE_KEYS | {"known": yes("Whether it was there."), "sampled": whole("Clips that were sampled.")},
    optional=CALIBRATION,
)
BANK: Mapping[str, Schema] = {
    "bank": PATH,
    "shape": text("Its skeleton in words."),
    "model": text("Whose latents made it."),
    "vae": text("Fingerprint of the VAE."),
    "calibrated_for": several("Models.", text("")),
    "identity": text("A digest of its shell alone."),
    "sha256": or_null(SHA256),
}
LEVELS = table("Quantiles, by level; 1 is the median of held-out real clips.", number(""))
SKIPPED = several("Why sources gave nothing.", text(""))
A_BANK = record("A bank.", BANK)
SHARES = table("Share of pairs in which the real clip is nearer, by what it is told from.", number(""))
USAGE = record(
    "How evenly clips use the anchors.",
    {
        "effective": number("exp(entropy) over the number of anchors, 0 to 1."),
        "unused": whole("Anchors."),
        "shares": several("Of patches, largest first.", number("")),
    },
)

PARTS: Mapping[str, Schema] = {
    "request": REQUEST,
    "model": MODEL,
    "loading": LOADING,
    "bank": BANK_OF_CLIP,
    "step": STEP,
    "band": BAND,
    "belongs": BELONGS,
    "fit": FIT,
    "figures": record("Of one clip.", FIGURES, optional=POWER | DISTANCE),
    "metrics": METRICS,
    "judged": JUDGED,
    "error": record(
        "What went wrong; printed in place of a result.",
        {
            "error": record(
                "One error.",
                {
                    "type": text("Its class, UsageError or Interrupted."),
                    "message": text("One line that says what to do."),
                    "exit_code": whole("1 failed, 2 usage, 130 interrupted, 128 + n ended by signal n.", 1),
                },
            )
        },
    ),
}

RESULTS: Mapping[str, tuple[Schema, ...]] = {
    "generate": (
        record(
            "What was made.",
            {"clips": several("Those made now.", CLIP), "skipped": whole("Clips that were finished already.")},
        ),
        record(
            "What would be made.",
            DRY
            | {
                "clips": several("One a clip.", PLANNED),
                "loaded": LINES,
                "memory": several("One a size of clip.", MEMORY),
            },
        ),
    ),
    "compare": (
        record("A run.", {"items": several("One a prompt and seed.", ITEM), "report": PATH}),
        record(
            "What would be sampled.",
            DRY
            | {
                "output": PATH,
                "model": text("Its name."),
                "bank": or_null(text("Its name.")),
                "clips": several(
                    "One a clip.",
                    record("A clip.", {"file": PATH, "prompt": PROMPT, "seed": SEED, "settings": SETTINGS}),
                ),
                "loaded": LINES,
            },
        ),
        record("What would be compared.", DRY | {"output": PATH, "videos": several("The reference first.", PATH)}),
    ),
    "fit": (
        record(
            "A fit.",
            FIT_KEYS
            | {
                "words": text("What was found, for people."),
                "path": PATH,
                "known": yes("Whether it was there."),
                "report": or_null(PAGE),
            },
            optional=SHAPE_OF_MODEL,
        ),
        record(
            "What would be fitted.",
            DRY
            | {
                "fit": PATH,
                "known": yes("Whether it is there, so that nothing would be made."),
                "belongs": part("belongs"),
                "clips": record(
                    "Clips of the round trips.",
                    {"side": whole("In pixels.", 1), "frames": whole("Of a clip.", 1), "clips": whole("How many.", 1)},
                ),
                "loaded": LINES,
            },
        ),
    ),
    "tune": (
        record(
            "Profiles.",
            {"profiles": several("One a prompt.", TUNED), "report": or_null(PAGE), "search": PAGE},
        ),
    ),
    "report": (
        record(
            "Several runs on one page.",
            {
                "report": PAGE,
                "runs": several(
                    "By date.",
                    record(
                        "A run.",
                        {
                            "folder": PATH,
                            "name": text("By which the page calls it."),
                            "title": text("The command that made it."),
                            "model": or_null(text("Its name; null of videos that existed.")),
                            "bank": or_null(text("Its name.")),
                            "created": text("ISO 8601, UTC."),
                            "prompts": whole("On the page."),
                            "clips": whole("That it has."),
                            "missing": whole("Clips of these whose files are not there."),
                        },
                    ),
                ),
            },
        ),
    ),
    "batch": (
        record(
            "What was made.",
            {
                "clips": several(
                    "Those made now.",
                    record(
                        "A clip; its sidecar has the rest.",
                        {
                            "video": PATH,
                            "sidecar": PATH,
                            "prompt": PROMPT,
                            "seed": SEED,
                            "strength": STRENGTH,
                            "frames_sha256": FRAMES_SHA256,
                            "sha256": SHA256,
                            "alarm": NOTED,
                            "loaded": LINES,
                        },
                    ),
                ),
                "skipped": whole("Clips that were finished already."),
                "failed": several("Those that failed.", record("A clip.", {"video": PATH, "reason": text("Why.")})),
            },
        ),
        record(
            "What would be made.",
            DRY
            | {
                "clips": several(
                    "One a clip.",
                    record(
                        "A clip.",
                        {
                            "video": PATH,
                            "prompt": PROMPT,
                            "seed": SEED,
                            "strength": STRENGTH,
                            "finished": yes("Whether it is there."),
                        },
                    ),
                ),
                "loaded": LINES,
            },
        ),
    ),
    "score": (
        record(
            "How far clips lie from the shell; 1 is the median of held-out real ones.",
            {
                "bank": PATH,
                "sha256": or_null(SHA256),
                "scores": several(
                    "One a clip.",
                    record(
                        "A clip.",
                        {
                            "file": PATH,
                            "clip": whole("Of the file, from 0."),
                            "mean": number("Distance."),
                            "median": number("Distance."),
                            "quantiles": LEVELS,
                            "below": or_null(number("Share of patches nearer than 95% of real ones, 0 to 1.")),
                            "above": or_null(number("Share of patches farther than 95% of real ones, 0 to 1.")),
                            "per_frame": several("Mean distance of each latent frame.", number("")),
                            "outside": or_null(number("below + above.")),
                        },
                    ),
                ),
            },
        ),
    ),
    "doctor": (
        record(
            "The installation.",
            {
                "ok": yes("Whether all that `generate` needs is here."),
                "versions": VERSIONS,
                "devices": several("In words.", text("")),
                "ffmpeg": text("Its version and place, or broken."),
                "threads": whole("Of torch.", 1),
                "tiny_model": PATH,
                "banks": several(
                    "That ship.",
                    record(
                        "A bank.",
                        {
                            "name": text("Its name."),
                            "path": PATH,
                            "sha256": SHA256,
                            "vae": text("Fingerprint of its VAE."),
                        },
                    ),
                ),
                "problems": several("In words.", text("")),
            },
            optional={
                "tiny_model_sha256": hexes("Of its weights.", 64),
                "tiny_model_vae": text("Fingerprint of its VAE."),
                "step": record(
                    "One guided step.",
                    {
                        "seconds": number("That it took."),
                        "sigma": SIGMA,
                        "distance": number("From the shell."),
                        "move": number("RMS, in normalised latents."),
                        "frames_sha256": FRAMES_SHA256,
                    },
                ),
            },
        ),
    ),
    "anchors build": (
        record("The bank.", BANK | {"skipped": SKIPPED}),
        record(
            "A shard of the latents.",
            {
                "latents": PATH,
                "files": whole("Of latents."),
                "skipped": SKIPPED,
                "next": text("What to do then."),
            },
        ),
    ),
    "anchors start": (A_BANK,),
    "anchors calibrate": (record("The bank.", BANK, optional={"calibration": PATH}),),
    "anchors import": (A_BANK,),
    "anchors train": (A_BANK,),
    "anchors pull": (A_BANK,),
    "anchors analyze": (
        record(
            "What a bank knows.",
            {
                "clips": table("How many of each kind.", whole("")),
                "distance": record(
                    "Histograms of patches' distances.",
                    {
                        "edges": several("Of the bins, in distances.", number("")),
                        "sets": table(
                            "By set of clips.",
                            record(
                                "A set.",
                                {
                                    "mean": number("Over clips."),
                                    "deviation": number("Over clips."),
                                    "histogram": several("Shares of patches.", number("")),
                                },
                            ),
                        ),
                    },
                ),
                "usage": table("By set of clips.", USAGE),
                "distinguishability": table("By kind of bank.", SHARES),
                "bank": record("The bank.", {"path": PATH, "sha256": or_null(SHA256)}),
                "files": several("That were written.", PATH),
            },
            optional={"data_efficiency": several("By number of videos, `videos`.", SHARES)},
        ),
    ),
    "anchors info": (
        record(
            "A bank, whole.",
            BANK
            | {
                "coverage": or_null(number("Share of held-out patches that lie near an anchor, 0 to 1.")),
                "survival": number("What overlap leaves of a move, 0 to 1."),
                "calibrations": several(
                    "Radius over noise level.",
                    record(
                        "For a model.",
                        {
                            "model": text("Its name."),
                            "fingerprint": text("Of its shape."),
                            "sigmas": several("Noise levels.", number("")),
                            "radius": several(
                                "In the first and later latent frames, or one.", {"type": ["number", "array"]}
                            ),
                        },
                    ),
                ),
                "provenance": of(
                    "object", "Where it came from; keys differ by how it was made.", additionalProperties=True
                ),
            },
            optional={"held_out_distance": record("Of real clips.", {"first_frame": LEVELS, "later_frames": LEVELS})},
        ),
    ),
    "anchors list": (
        record(
            "Banks.",
            {
                "banks": several(
                    "Here.",
                    {"anyOf": [A_BANK, record("One that cannot be read.", {"bank": PATH, "broken": text("Why.")})]},
                ),
                "published": table("That can be fetched, by name.", text("In words.")),
            },
        ),
    ),
    "anchors verify": (
        record("A sound bank.", {"bank": PATH, "whole": yes("Always.", const=True), "sha256": or_null(SHA256)}),
    ),
    "profiles list": (record("Profiles.", {"folder": PATH, "profiles": several("By prompt.", PROFILE)}),),
}


def used(schema: Any) -> set[str]:
    """The names of the parts that a schema refers to, and those that these refer to."""
    if isinstance(schema, list):
        return set[str]().union(*map(used, schema))
    if not isinstance(schema, dict):
        return set()
    found = set[str]().union(*map(used, schema.values()))
    if name := str(schema.get("$ref", "")).removeprefix("#/$defs/"):
        found |= {name} | used(PARTS[name])
    return found


def schema(command: str) -> Schema:
    """The schema of what a command prints with --json."""
    results = [*RESULTS[command], part("error")]
    return {
        "$schema": DIALECT,
        "$id": f"urn:shelllcc:json:{VERSION}:{command.replace(' ', '-')}",
        "title": f"shelllcc {command} --json",
        "anyOf": results,
        "$defs": {name: PARTS[name] for name in sorted(used(results))},
    }


def files() -> dict[Path, str]:
    """What the folder holds."""
    return {
        FOLDER / f"{command.replace(' ', '-')}.json": json.dumps(schema(command), indent=1) + "\n"
        for command in RESULTS
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, contents in files().items():
        path.write_text(contents, encoding="utf-8")
