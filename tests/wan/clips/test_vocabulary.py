"""What the tiny model's vocabulary says of prompts, and what a user is told of it."""

import itertools
import json

from shelllcc.guidance.wan.model.pipeline import TINY
from shelllcc.guidance.wan.tiny.vocabulary import (
    FREE,
    LIGHTS,
    MOVES,
    SUBJECTS,
    TEMPLATES,
    caption,
    spoken,
    understand,
    words,
)

SMALL = ["--size", "64x64", "--frames", "5", "--steps", "4"]


def test_every_caption_is_understood_as_it_was_meant():
    ways = itertools.product(range(len(TEMPLATES)), range(2), [(), ("close", "blur"), ("wide", "hard"), ("soft",)])
    for (template, synonym, free), subject, move in itertools.product(ways, SUBJECTS, MOVES):
        text = caption(subject, move, "fog", free, template=template, synonym=synonym)
        said = understand(text)
        assert (said.subject, said.move, said.light, said.free) == (subject, move, "fog", free), text
    assert {understand(name).light for names in LIGHTS.values() for name in names} == set(LIGHTS)
    assert {understand(name).free for names in FREE.values() for name in names} == {(key,) for key in FREE}


def test_a_moving_camera_is_no_subject():
    assert understand("a dog, the camera pans left").subject is None
    assert understand("cat, still camera").subject == "cat"
    assert understand("a man with a camera, the camera rolls").subject == "camera"


def test_the_tokenizer_knows_every_word():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY / "tokenizer")
    assert set(tokenizer.get_vocab()) == {*words(), "<pad>", "</s>", "<unk>"}


def test_a_user_is_told_what_the_tiny_model_knows(shelllcc):
    code, _, err = shelllcc("generate", "--prompt", "a unicorn, the camera pans left", *SMALL, "--dry-run")
    assert code == 0
    [line] = [line for line in err.splitlines() if "knows no subject" in line]
    known = json.loads((TINY / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    for phrase in ("a tabby cat", "a raccoon", "a drum", "tilt up", "sunset", "close-up", "with motion blur"):
        assert (phrase in line) == spoken(phrase, known)
    for name in ("stars, close-up", "larches, close-up"):
        told = "knows no subject" in shelllcc("generate", "--prompt", name, *SMALL, "--dry-run")[2]
        assert told != spoken(name.split(",")[0], known)
