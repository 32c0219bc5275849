"""What ModelStatistics adds up: inferences of one execution are one batch, told once."""

from __future__ import annotations

from server.service.oip.models import Execution, Made
from server.service.oip.statistics import OPEN, ModelFigures


def made(formed_ns: int, inferences: int = 1, run: int = 0) -> Made:
    return Made({}, inferences, Execution(formed_ns, run), queue_ns=3, shared_ns=100, own_ns=10)


def tell(figures: ModelFigures, *all_made: Made) -> None:
    for one in all_made:
        figures.succeeded(one, decode_ns=1, encode_ns=2, spent_ns=1_000)


def test_those_who_shared_an_execution_are_one_batch_and_its_time_counts_once() -> None:
    figures = ModelFigures("m")
    tell(figures, made(1, 2), made(2), made(1, 3), made(1, 1, run=1))
    told = figures.message()
    assert (told.inference_count, told.execution_count) == (7, 3)
    batches = {one.batch_size: one for one in told.batch_stats}
    assert sorted(batches) == [1, 5]
    shared = batches[5]
    assert (shared.compute_infer.count, shared.compute_infer.ns) == (1, 100 + 2 * 10)
    assert (shared.compute_input.ns, shared.compute_output.ns) == (2, 4)
    assert (batches[1].compute_infer.count, batches[1].compute_infer.ns) == (2, 220)
    # Of requests each waited for the whole execution.
    stats = told.inference_stats
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (4, 440)
    assert (stats.success.count, stats.success.ns) == (4, 4_000)
    assert (stats.queue.count, stats.queue.ns) == (4, 12)


def test_failures_are_counted_apart() -> None:
    figures = ModelFigures("m")
    figures.failed(7)
    told = figures.message()
    assert (told.inference_stats.fail.count, told.inference_stats.fail.ns) == (1, 7)
    assert (told.inference_count, told.execution_count, told.last_inference) == (0, 0, 0)
    assert not told.batch_stats


def test_old_executions_are_summed_up_and_reading_changes_nothing() -> None:
    figures = ModelFigures("m")
    for formed_ns in range(3 * OPEN):
        tell(figures, made(formed_ns), made(formed_ns))
    told = figures.message()
    assert figures.message() == told
    (only,) = told.batch_stats
    assert (only.batch_size, only.compute_infer.count) == (2, 3 * OPEN)
    assert only.compute_infer.ns == 3 * OPEN * 120
    assert told.execution_count == 3 * OPEN
