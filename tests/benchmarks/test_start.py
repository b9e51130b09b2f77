"""The command that times commands: medians and spreads, of processes that ran."""

from __future__ import annotations

import json

from benchmarks import start


def test_a_row_is_the_median_and_spread_of_both_times():
    row = start.row_of([(3.0, 5.0), (1.0, 4.0), (2.5, 9.0)])
    assert row == {"cpu_median": 2.5, "cpu_spread": 2.0, "wall_median": 5.0, "wall_spread": 5.0}


def test_a_command_is_timed_in_a_process_of_its_own(capsys):
    start.main(["--only=--help", "--runs", "1", "--json"])
    row = json.loads(capsys.readouterr().out)["--help"]
    assert 0 < row["cpu_median"] < 60
    assert row["cpu_spread"] == 0
