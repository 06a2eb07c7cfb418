"""How calm the machine was: what is counted, and what makes a measurement untrustworthy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from edgebert.judging.conditions import MOST_DRIFT, Conditions, Watch, conditions_facts, drift_of

CALM = Conditions("l6-cpu-fp32 on cpu", drift=0.03, steal=0.0, background=0.02, throttled=0, seconds=12.0)
BUSY = "import time; end = time.time() + 300\nwhile time.time() < end: pass"


def test_a_calm_machine_has_no_reasons() -> None:
    assert CALM.stable
    facts = conditions_facts(CALM)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["stable"], facts["reasons"]) == (True, [])
    assert conditions_facts(None) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drift": 0.4}, "the speed of l6-cpu-fp32 on cpu varied by 40% between rounds"),
        ({"steal": 0.1}, "the host took 10% of the CPU time"),
        ({"background": 0.5}, "other programs used 50% of the CPU time"),
        ({"throttled": 3}, "the CPU was throttled 3 times"),
        (
            {"apart": 0.4},
            "in 40% of the rounds the CPUs were too far apart for small work",
        ),
        (
            {"apart": 1.0},
            "in all of the rounds the CPUs were too far apart for small work",
        ),
    ],
)
def test_each_trouble_is_named(change: dict[str, float], words: str) -> None:
    restless = replace(CALM, **change)  # type: ignore[arg-type]
    assert not restless.stable
    assert len(restless.reasons) == 1
    assert restless.reasons[0].startswith(words)


def test_where_the_host_places_the_cpus_is_told_and_no_cause_to_measure_again() -> None:
    assert replace(CALM, apart=0.5, drift=0.4).disturbances == replace(CALM, drift=0.4).reasons
    assert replace(CALM, apart=0.05).stable


def test_drift_is_the_spread_of_the_rounds_and_not_one_bad_round() -> None:
    steady = [2.0, 2.01, 1.99] * 7
    assert drift_of(steady) < 0.02
    assert drift_of([*steady, 40.0]) < 0.02
    assert drift_of([2.0] * 10 + [3.0] * 10) > MOST_DRIFT


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_program_is_counted_and_a_worker_of_ours_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
        try:
            foreign, ours = Watch(), Watch()
            begun, burned = seconds_of(busy), 0.0
            while burned < 0.3:
                with foreign.over(), ours.over([busy.pid]):
                    time.sleep(0.5)
                burned = seconds_of(busy) - begun
            seen, own = (watch.conditions("x", [1.0], [0.7]) for watch in (foreign, ours))
        finally:
            busy.kill()
    # One program of ours uses what the others leave of a CPU; what else runs here is in both.
    share = burned / (seen.seconds * (os.cpu_count() or 1))
    assert seen.background - own.background > share / 2
    assert seen.seconds >= 0.5


def seconds_of(process: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(process.pid).cpu_times().user)


def test_drift_is_that_of_the_rounds_in_which_the_cpus_were_together() -> None:
    near, far = [2.0, 2.01] * 5, [3.0, 3.01] * 5
    found = Watch().conditions("x", near + far, [0.7] * 10 + [1.3] * 10)
    assert found.drift < 0.01
    assert found.apart == 0.5
    assert found.sharing == pytest.approx(1.0)
