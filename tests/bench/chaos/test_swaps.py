"""T3 in short: releases exchanged under load, and every answer compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.damages import DAMAGES, manifest_id
from bench.chaos.marks import all_of, at_least, at_most, none_of
from bench.chaos.swaps import Swaps, marks, run
from server import releases
from strategies.bundles import tiny_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in (1, 2):
        tiny_bundle(folder / str(seed), seed=seed)
    return [folder / "1", folder / "2"]


@pytest.mark.parametrize(("workers", "good", "bad"), [(1, 3, len(DAMAGES)), (2, 2, 1)])
def test_no_call_fails_and_each_answer_is_of_the_release_it_names(
    bundles: list[Path], tmp_path: Path, workers: int, good: int, bad: int
) -> None:
    found = run(tmp_path, bundles, good=good, bad=bad, workers=workers)
    assert [mark for mark in marks(found) if mark.missed] == []
    assert found.answers > 200


def test_an_answer_of_another_release_is_found(bundles: list[Path], tmp_path: Path) -> None:
    """The comparison itself: lists that are swapped between the releases are all wrong."""
    from bench.chaos import swaps

    def mixed(bundle: Path, requests: list, folder: Path) -> swaps.Lists:  # type: ignore[type-arg]
        other = bundles[1 - bundles.index(bundle)]
        ((_, lists),) = alone(other, requests, folder).items()
        return {manifest_id(bundle): lists}

    alone = swaps.lists_of
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(swaps, "lists_of", mixed)
        found = run(tmp_path, bundles, good=1, bad=0)
    assert found.wrong > found.answers / 2
    assert [mark.what for mark in marks(found) if mark.missed] == [
        "answers that mix releases or are another's"
    ]


def test_marks_tell_by_how_much() -> None:
    assert at_most("a", 12.4, 10, " ms", 1).verdict == "missed: 2.4 ms too much"
    assert at_most("a", 10, 10).verdict == "PASS"
    assert at_most("a", float("nan"), 10).missed
    assert at_least("a", 8, 10).verdict == "missed: 2 too little"
    assert at_least("a", float("nan"), 10).missed
    assert all_of("a", 3, 4).verdict == "missed: 1 are not"
    assert none_of("a", 0).verdict == "PASS"
    assert none_of("a", 2, "2 UNAVAILABLE").verdict == "missed: 2 UNAVAILABLE"


def test_each_kind_of_failure_has_its_row() -> None:
    bad = Swaps(
        3, 2, 2, 1, 0, 9, {"UNAVAILABLE": 4}, 5, (1, 2), (0, 0), (1, 2), (1, 2), (1, 2), "request 7"
    )
    told = {mark.what: mark.missed for mark in marks(bad) if mark.missed}
    assert list(told.values()) == [
        "1 are not",
        "4 UNAVAILABLE",
        "request 7",
        "2 are not",
        "1 are not",
    ]


def test_calls_that_still_get_the_old_release_after_the_new_one_are_seen() -> None:
    from bench.chaos.swaps import _Seen
    from equipoise.v1 import recommendation_pb2 as pb

    old, new = (pb.RecommendResponse(bundle_id=name) for name in ("old", "new"))
    seen = _Seen({})
    seen.expect("new")
    seen.look(old, begun_s=1.0)
    seen.look(new)
    assert seen.side_by_side_s == 0
    seen.look(old, begun_s=seen.first_new_s - 1)  # it was under way already
    assert seen.side_by_side_s == 0
    seen.look(old, begun_s=seen.first_new_s + 2)
    assert seen.side_by_side_s == pytest.approx(2)
    seen.expect("old")
    assert seen.side_by_side_s == 0


def test_the_pointer_names_what_was_activated(bundles: list[Path], tmp_path: Path) -> None:
    for bundle in bundles:
        releases.activate(tmp_path / "root", bundle, manifest_id)
    pointer = releases.read_pointer(tmp_path / "root")
    assert (pointer.active, *pointer.earlier) == tuple(map(manifest_id, reversed(bundles)))
