"""The matrix of fits: its cells, and what must hold of each."""

from dataclasses import replace

import pytest

from benchmarks import fit as matrix
from benchmarks.gates import Row
from benchmarks.judge import COLUMNS
from benchmarks.samples import STUDENT, Arm
from shelllcc.guidance.fit.fit import Band, Belongs, Fit
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.model.presets import PRESETS

REAL = dict.fromkeys(COLUMNS, 1.0) | {"swd": 0.016, "spec": 0.025, "colour": 7.0}


def row(*, worse=(), **columns):
    sides = {column: "worse" if column in worse else "even" for column in COLUMNS}
    return Row("fit", REAL | columns, {}, sides, [], 25, 0.0, 0.0)


def held(cell, before, after):
    rows = {"unguided": before, "fitted": after}
    return {gate.name.partition(": ")[2]: gate.held for gate in matrix.check(cell, rows, row(), REAL["swd"])}


def test_every_cell_of_the_matrix_is_there_once_for_the_banks_that_are_given(monkeypatch, tmp_path):
    monkeypatch.setattr(matrix, "EARLY", tmp_path / "none")
    *cells, one, two, three, four = matrix.cells(["auto"])
    assert [cell.arm.cfg for cell in cells] == [1.0, 2.0, 3.0, 5.0, 1.0]
    assert cells[-1].arm.steps == 8
    assert len(list(matrix.cells(["auto", "foreign", "manifold"]))) == 12 + 4
    student = [(cell.arm.scheduler, len(cell.arm.sigmas), cell.closed) for cell in (one, two, three, four)]
    assert student == [("euler", 4, 0.6), ("lcm", 4, 0.6), ("euler", 3, 0.0), ("euler", 8, 0.0)]
    assert (one.arm.sigmas, one.arm.model) == (PRESETS["tiny-4step"].sigmas, STUDENT)
    monkeypatch.setattr(matrix, "EARLY", tmp_path)
    [early] = [cell for cell in matrix.cells(["auto"]) if cell.arm.model == "early"]
    assert early.closed == 0.0


def test_a_gap_must_be_closed_as_far_as_is_asked_and_a_small_one_not_widened():
    cell = matrix.Cell("x", Arm(), "auto", 0.9)
    before = row(swd=0.118, spec=0.2)
    assert held(cell, before, row(swd=0.02, spec=0.05))["90% of the gap"]
    assert not held(cell, before, row(swd=0.04, spec=0.05))["90% of the gap"]
    assert held(cell, row(swd=0.02), row(swd=0.021))["swd not worse"]
    assert not held(cell, row(swd=0.02), row(swd=0.03, worse=["swd"]))["swd not worse"]


def test_the_spectrum_follows_and_nothing_else_gets_worse():
    cell = matrix.Cell("x", Arm(), "auto", 0.9)
    before = row(swd=0.118, spec=0.2, acc=1.0)
    assert not held(cell, before, row(swd=0.02, spec=0.12))["spec"]
    assert held(cell, row(swd=0.1, spec=0.09), row(swd=0.02, spec=0.08))["spec"]
    found = held(cell, before, row(swd=0.02, spec=0.05, acc=62 / 64, worse=["flat"]))
    assert not found["flat"]
    assert found["kurt"]
    assert not found["subjects"]
    assert held(cell, before, row(swd=0.02, spec=0.05, acc=63 / 64))["subjects"]


@pytest.mark.parametrize("ablate", [False, True])
def test_arms_differ_in_the_guide_alone(ablate):
    guide = GuideConfig(toward=0.0, radius=2.0, calm=1.0, contrast=0.5)
    bands = (Band("2 to 4 px", -0.2, 0.02, 0.0, 0.02), Band("contrast", 0.0, 0.02, 0.0, 0.02))
    belongs = Belongs("bank", None, "weights", "unipc", 25, 3.0, None, 3.0)
    fit = Fit(belongs, guide, bands, (), (), 0, 0.95, (192, 192, 17), "tiny", "bank", {})
    cell = matrix.Cell("x", Arm(3.0), "foreign", 0.4)
    arms = matrix.arms_of(cell, fit, "bank.safetensors", ablate=ablate)
    assert arms["unguided"] == Arm(3.0)
    assert arms["fitted"] == replace(Arm(3.0), guide=guide, bank="bank.safetensors")
    assert len(arms) == (5 if ablate else 2)
    assert {arm.base for arm in arms.values()} == {Arm(3.0)}
