"""What the probe concludes from its figures."""

import pytest

from learner.publishing.probe import Comparison

TRAINER, ACTOR = "the trainer", "actor a"


@pytest.mark.parametrize(
    ("comparison", "ignoring"),
    [
        (Comparison(0.0), []),
        (Comparison(0.0, 0.5, 10, 0.4, 0.4), []),
        (Comparison(0.0, 0.5, 10, 0.4, 0.0), [ACTOR]),
        (Comparison(0.3, 0.5, 10, 0.4, 0.02), []),  # its weights are others
        (Comparison(0.0, 0.0, 10, 0.0, 0.3), [TRAINER]),
        (Comparison(0.0, 0.0, 10, 0.0, 0.0), [TRAINER, ACTOR]),
        (Comparison(0.0, 0.0), [TRAINER]),  # its answers differ from their first token: it sees the images
        (Comparison(0.0, 0.5), []),
    ],
)
def test_a_side_is_named_where_images_change_nothing_in_it(comparison: Comparison, ignoring: list[str]):
    assert comparison.ignoring("a", "float32") == ignoring
