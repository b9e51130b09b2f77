"""The command that times commands: medians and spreads, of processes that ran."""

from __future__ import annotations

import json

from benchmarks import start


def test_a_row_is_the_median_and_spread_of_both_times_and_of_memory():
    row = start.row_of([(3.0, 5.0, 70.0), (1.0, 4.0, 60.0), (2.5, 9.0, 65.0)])
    assert (row["cpu_median"], row["wall_median"], row["mb_median"]) == (2.5, 5.0, 65.0)
    assert (row["cpu_spread"], row["wall_spread"], row["mb_spread"]) == (2.0, 5.0, 10.0)


def test_a_command_is_timed_in_a_process_of_its_own(capsys):
    start.main(["--only=--help", "--runs", "1", "--json"])
    row = json.loads(capsys.readouterr().out)["--help"]
    assert 0 < row["cpu_median"] < 60
    assert 10 < row["mb_median"] < 2000
    assert row["cpu_spread"] == 0
