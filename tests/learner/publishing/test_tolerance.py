"""When log-probabilities of actors are another policy's."""

import pytest

from learner.publishing.tolerance import RISE, STOP, WARN, Tolerance


@pytest.mark.parametrize("dtype", STOP)
def test_rounding_passes_and_another_policy_does_not(dtype: str):
    assert Tolerance(dtype, None).judge(0.1 * STOP[dtype]) == "equal"
    assert Tolerance(dtype, None).judge(1.1 * WARN * STOP[dtype]) == "suspect"
    assert Tolerance(dtype, None).judge(1.1 * STOP[dtype]) == "different"


def test_later_versions_are_judged_by_the_first():
    tolerance = Tolerance("bfloat16", None)
    assert tolerance.judge(0.02) == "equal"
    assert tolerance.limit == pytest.approx(0.02 + RISE)
    assert tolerance.judge(0.065) == "suspect"
    assert tolerance.judge(0.071) == "different"


def test_a_configured_value_is_kept_to():
    tolerance = Tolerance("bfloat16", 0.001)
    assert tolerance.judge(0.0009) == "suspect"
    assert tolerance.limit == 0.001
    assert tolerance.judge(0.0011) == "different"
