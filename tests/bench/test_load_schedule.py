"""What is due when: rates by counting, seeds, stages, traces; and what a scenario refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.command import EXAMPLES
from bench.load.requests import read_requests
from bench.load.scenario import Scenario, parse_scenario, read_scenario
from bench.load.schedule import COLD, Schedule, expected, schedule_of
from bench.refused import InputRefused

HEAD = 'schema_version = 1\nname = "some"\n'


def schedule(*stages: dict[str, Any], n: int = 50, **more: Any) -> tuple[Scenario, Schedule]:
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "some", "stage": list(stages)} | more
    )
    return scenario, schedule_of(scenario, n)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["poisson", "constant"]),
    first=st.floats(10, 300),
    last=st.floats(10, 300),
    duration_s=st.floats(2, 30),
    seed=st.integers(0, 99),
)
def test_so_many_come_in_each_tenth_as_the_rate_says(
    kind: str, first: float, last: float, duration_s: float, seed: int
) -> None:
    """Against the area under the rate, summed in small steps."""
    stage = {"kind": kind, "rate_rps": first, "to_rps": last, "duration_s": duration_s}
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "some", "seed": seed, "stage": [stage, stage]}
    )
    made = schedule_of(scenario, 5)
    assert (np.diff(made.due_ns) >= 0).all()
    assert set(made.stage.tolist()) <= {0, 1}
    for number in (0, 1):
        at_s = made.due_ns[made.stage == number] / 1e9 - number * duration_s
        assert ((at_s >= 0) & (at_s < duration_s)).all()
        for tenth in range(10):
            begin, end = tenth * duration_s / 10, (tenth + 1) * duration_s / 10
            steps = np.linspace(begin, end, 201)
            rates = first + (last - first) * (steps[:-1] + steps[1:]) / 2 / duration_s
            area = float((rates * np.diff(steps)).sum())
            came = int(((at_s >= begin) & (at_s < end)).sum())
            # Of a Poisson stream six deviations; of an even one, what a half at each end may do.
            assert abs(came - area) <= (6 * math.sqrt(area) + 3 if kind == "poisson" else 1.01)


def test_gaps_of_a_poisson_stage_are_exponential_in_its_cumulative_rate() -> None:
    scenario, made = schedule({"rate_rps": 50, "to_rps": 400, "duration_s": 40})
    gaps = np.diff(expected(scenario.stage[0], made.due_ns / 1e9))
    # Mean and deviation of an exponential law are 1; of an even stream the deviation is 0.
    assert gaps.mean() == pytest.approx(1, abs=0.05)
    assert gaps.std() == pytest.approx(1, abs=0.07)


def test_bursts_come_at_once_and_keep_the_rate() -> None:
    _, made = schedule({"kind": "bursts", "rate_rps": 40, "size": 20, "duration_s": 5})
    times, counts = np.unique(made.due_ns, return_counts=True)
    assert set(counts.tolist()) == {20}
    assert np.diff(times).tolist() == [500_000_000] * 9
    assert len(made) == 200


def test_a_trace_is_replayed_at_its_speed_and_cut_at_its_duration(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("0\n0.5\n0.5\n3\n9\n")
    (tmp_path / "s.toml").write_text(
        f'{HEAD}[[stage]]\nkind = "trace"\nfile = "t.txt"\nspeed = 2\nduration_s = 2\n'
    )
    made = schedule_of(read_scenario(tmp_path / "s.toml"), 3)
    assert made.due_ns.tolist() == [0, 250_000_000, 250_000_000, 1_500_000_000]


@pytest.mark.parametrize(
    ("content", "told"),
    [("1\n0.5\n", "line 2: got 0.5 after 1"), ("soon\n", "a time in seconds"), ("-1\n", "from 0 on"),
     ("nan\n", "finite"), ("", "no request would be sent")],
)  # fmt: skip
def test_a_trace_that_makes_no_sense_is_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(content)
    (tmp_path / "s.toml").write_text(
        f'{HEAD}[[stage]]\nkind = "trace"\nfile = "t.txt"\nduration_s = 2\n'
    )
    with pytest.raises(InputRefused, match=told):
        schedule_of(read_scenario(tmp_path / "s.toml"), 3)


def test_the_same_seed_gives_the_same_load_and_cold_users_move_no_arrival() -> None:
    stage = {"rate_rps": 100, "duration_s": 5}
    one, same = (schedule(stage, seed=3)[1] for _ in range(2))
    other = schedule(stage, seed=4)[1]
    cold = schedule(stage, seed=3, requests={"cold_share": 0.5})[1]
    for name in ("due_ns", "request", "checked"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.due_ns[:50], other.due_ns[:50])
    assert np.array_equal(one.due_ns, cold.due_ns)
    assert np.array_equal(one.checked, cold.checked)
    known = cold.request != COLD
    assert 0.4 < known.mean() < 0.6
    assert np.array_equal(one.request[known], cold.request[known])


def test_callers_come_back_as_unevenly_as_zipf_says() -> None:
    stage = {"kind": "constant", "rate_rps": 2000, "duration_s": 10}
    for zipf in (0.0, 1.0):
        _, made = schedule(stage, n=100, requests={"zipf": zipf})
        counts = np.sort(np.bincount(made.request, minlength=100))[::-1]
        weights = [rank**-zipf for rank in range(1, 101)]
        share = weights[0] / sum(weights)
        assert counts[0] / counts.sum() == pytest.approx(share, rel=0.2)
        assert (counts > 0).all()
    # Whoever comes most is not the first of the file.
    assert made.request[0] != 0 or np.bincount(made.request).argmax() != 0


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("rate_rps = 5", "duration_s: is missing"),
        ("duration_s = 5", "needs rate_rps"),
        ("rate_rps = 0\nduration_s = 5", "rate_rps: got 0"),
        ("rate = 5\nduration_s = 5", "rate: unknown key; did you mean 'rate_rps'"),
        ('kind = "burst"\nrate_rps = 5\nduration_s = 5', "kind: got 'burst'"),
        ('kind = "bursts"\nrate_rps = 5\nto_rps = 9\nduration_s = 5', "leave to_rps out"),
        ('kind = "trace"\nduration_s = 5', "a trace needs a file"),
        ('file = "x"\nrate_rps = 5\nduration_s = 5', "file belongs to kind trace"),
        ("rate_rps = 1e6\nduration_s = 5000", "asks for some 5,000,000,000 requests"),
        ("users = 5\nduration_s = 5", "stage 1 of the open loop needs rate_rps"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(stage: str, told: str) -> None:
    with pytest.raises(InputRefused, match=told):
        parse_scenario(f"{HEAD}[[stage]]\n{stage}\n", "s.toml")


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bench" / "scenarios").glob("*.toml")), ids=lambda path: path.stem
)
def test_a_scenario_that_ships_is_read_again_by_its_driver_and_is_told(path: Path) -> None:
    scenario = read_scenario(path)
    assert scenario.name == path.stem
    # Drivers get it as JSON: what was read must be readable.
    again = Scenario.model_validate_json(scenario.model_dump_json())
    assert again == scenario
    file = scenario.requests.file
    requests = [] if file is None else read_requests(file)
    assert len(schedule_of(again, len(requests) or 50)) > 100
    assert f"`{path.name}`" in (ROOT / "docs" / "load.md").read_text()
    assert path.stem in EXAMPLES


def test_the_overload_that_ships_has_callers_of_several_groups() -> None:
    file = read_scenario(ROOT / "bench" / "scenarios" / "overload.toml").requests.file
    assert file is not None
    groups = [request.groups["income"] for request in read_requests(file)]
    assert len(set(groups)) == 3
    assert all(groups.count(label) >= 30 for label in groups)
