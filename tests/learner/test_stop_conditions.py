"""When a run stops by itself."""

import math

from learner.stop_conditions import StopConditions
from vision_sr1.config import StopWhenConfig


def conditions(in_a_row: dict[str, int] | None = None, **settings: object) -> StopConditions:
    return StopConditions(StopWhenConfig.model_validate(settings), in_a_row or {})


def test_a_limit_counts_batches_in_a_row():
    watched = conditions(grad_norm={"above": 10, "batches": 2})
    norms = [11.0, 9.0, 11.0]
    assert [watched.batch([False], {"grad_norm/mean": norm, "grad_norm/max": 99.0}) for norm in norms] == [None] * 3
    assert not watched.is_healthy
    reason = watched.batch([False], {"grad_norm/mean": 12.34})
    assert reason == "grad_norm/mean is 12.34, above 10 for 2 batches in a row (grad_norm)"


def test_the_worst_component_counts_and_what_is_no_number_exceeds():
    watched = conditions(kl={"above": 0.5, "batches": 1}, approx_kl={"above": 0.1, "batches": 1})
    quiet = {"kl/answer": 0.4, "kl/description": 0.5, "approx_kl/answer": 0.1}
    assert watched.batch([False], quiet) is None
    assert watched.is_healthy
    assert watched.batch([False], quiet | {"kl/description": 0.7, "kl/answer": 0.6}) == (
        "kl/description is 0.7, above 0.5 in one batch (kl)"
    )
    assert watched.batch([False], {"approx_kl/answer": math.nan}) == (
        "approx_kl/answer is nan, above 0.1 in one batch (approx_kl)"
    )


def test_a_batch_without_the_scalar_neither_counts_nor_ends_the_row():
    watched = conditions(grad_norm={"above": 1, "batches": 2})
    assert watched.batch([False], {"grad_norm/mean": 2.0}) is None
    assert watched.batch([True], {}) is None
    assert watched.batch([False], {"grad_norm/mean": 2.0}) is not None


def test_steps_skipped_in_a_row_stop_the_run_across_batches_and_restarts():
    first = conditions(skipped_steps=3)
    assert first.batch([True, True, False], {}) is None
    assert first.is_healthy
    assert first.batch([False, True, True], {}) is None
    assert not first.is_healthy
    resumed = conditions(first.in_a_row, skipped_steps=3)
    assert resumed.batch([True, False], {}) == (
        "3 optimizer steps in a row had a loss or gradient that is not finite (skipped_steps)"
    )


def test_a_run_that_was_stopped_and_is_resumed_counts_anew():
    stopped = conditions(skipped_steps=2, grad_norm={"above": 1, "batches": 2})
    for _ in range(2):
        reason = stopped.batch([True], {"grad_norm/mean": 2.0})
    assert reason is not None
    resumed = conditions(stopped.in_a_row, skipped_steps=2, grad_norm={"above": 1, "batches": 2})
    assert resumed.batch([True], {"grad_norm/mean": 2.0}) is None
    assert resumed.batch([True], {"grad_norm/mean": 2.0}) is not None
