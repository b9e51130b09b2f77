"""Damage to a video, as ffmpeg tells of it while it decodes. Knows nothing of files or pixels.

ffmpeg conceals what it cannot decode, leaves out what it cannot conceal, and ends with 0. What its decoders do not
notice stays unknown: HEVC, VP8 and VP9 hold nothing by which a few wrong bytes could be told.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

TELLING = ("-debug_ts", "-max_error_rate", "1")  # every decoded frame with its time; never give up
FRAME = re.compile(r"decoder -> .*?pts_time:(NOPTS|-?[0-9.e+-]+) .*?keyframe:(\d)")
DECODER = re.compile(r"-> #0:0 \((\S+) \((\S+)\) -> ")  # codec and decoder of `Stream mapping`
CONCEALED = "corrupt decoded frame"
LOST = ("Error submitting packet to decoder", "Error while decoding stream")
EXPLAINED = re.compile(  # said besides one of those above, or of sound streams of odd encoders
    r"Invalid NAL unit|missing picture in access unit|Error splitting|mmco: |exceeds max|co located POCs"
)
HEALING = 1.0  # seconds behind damage within which a keyframe may have been decoded before it


@dataclass(frozen=True)
class Damage:
    """What a reading of a video lacks, by time in seconds.

    lost        packets that gave no frame
    concealed   frames that ffmpeg has guessed in part
    complained  frames during which the decoder complained; some frames before the one that it complained of
    keyframes   frames that need no other
    """

    lost: tuple[float, ...]
    concealed: tuple[float, ...]
    complained: tuple[float, ...]
    keyframes: tuple[float, ...]

    def frames(self, start: float = -math.inf, end: float = math.inf) -> int:
        """How many damaged frames there are among those from `start` to `end` seconds, and those that they lean on."""
        healed = max((time for time in self.keyframes if time <= start), default=-math.inf)
        lost, concealed, complained = (
            sum(healed - HEALING <= time <= end for time in times)
            for times in (self.lost, self.concealed, self.complained)
        )
        return lost + max(concealed, complained)


def heard(said: str) -> Damage:
    """The damage that ffmpeg told of with TELLING, at level info, with `repeat` and `level`."""
    decoder = DECODER.search(said)
    name = decoder and (decoder[1] if decoder[2] == "native" else decoder[2])
    lost, concealed, complained, keyframes = list[float](), list[float](), list[float](), list[float]()
    time, flag, complaint = -math.inf, False, False
    for line in said.splitlines():
        if frame := FRAME.search(line):
            time = time if frame[1] == "NOPTS" else float(frame[1])
            concealed += [time] * flag
            complained += [time] * complaint
            keyframes += [time] * (frame[2] == "1")
            flag = complaint = False
        elif CONCEALED in line:
            flag = True
        elif any(words in line for words in LOST):
            lost.append(time)
            complaint = False
        elif "[error]" in line and line.startswith(f"[{name} @") and not EXPLAINED.search(line):
            complaint = True
    return Damage(tuple(lost), tuple(concealed), tuple(complained), tuple(keyframes))
