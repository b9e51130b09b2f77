"""What there is to say of a bank, as JSON. Knows nothing of files."""

from __future__ import annotations

from shelllcc.anchors.bank import LEVELS, Bank
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.geometry.shell import Curve
from shelllcc.guidance.geometry.skeletons import Anchors
from shelllcc.guidance.words import plural


def describe(bank: Bank, *, whole: bool = False) -> JsonObject:
    """What to say of a bank; `whole` adds its provenance and distances."""
    said: JsonObject = {
        "bank": str(bank.path),
        "shape": _shape(bank),
        "model": bank.model,
        "vae": bank.vae,
        "calibrated_for": [c.model for c in bank.current],
        "identity": bank.identity,
        "sha256": bank.sha256,
    }
    if whole:
        said["coverage"] = bank.provenance.get("coverage")
        said["survival"] = round(bank.shell.survival, 3)
        if bank.quantiles is not None:
            names = ("first_frame", "later_frames")
            rows = (dict(zip(map(str, LEVELS), row, strict=True)) for row in bank.quantiles.tolist())
            said["held_out_distance"] = dict(zip(names, rows, strict=True))
        said["calibrations"] = [
            {"model": c.model, "fingerprint": c.fingerprint, **_table(c.curve)} for c in bank.current
        ]
        said["provenance"] = bank.provenance
    return said


def _shape(bank: Bank) -> str:
    """Its skeleton in words."""
    skeleton, patch = bank.shell.skeleton, bank.shell.patch
    if not isinstance(skeleton, Anchors):
        return f"amortized manifold of {len(skeleton.weights['basis'])} bases, single voxels"
    scale = "covariance each" if len(skeleton.whitening) > 1 else "one covariance"
    return f"{plural(len(skeleton.anchors), 'anchor')} of {patch}x{patch} patches, k {skeleton.k}, {scale}"


def _table(curve: Curve) -> JsonObject:
    return {"sigmas": curve.sigmas.tolist(), "radius": curve.radius.tolist()}
