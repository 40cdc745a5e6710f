"""The health score; the story is Go's awareness_test.go."""

from __future__ import annotations

from wesher_agent.swim.awareness import Awareness


def test_the_score_stays_within_its_bounds_and_stretches_timeouts() -> None:
    awareness = Awareness(8)
    deltas = [0, -1, -10, 1, -1, 10, -1, -1, -1, -1, -1, -1, -1, -1]
    scores = [0, 0, 0, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0, 0]

    for delta, score in zip(deltas, scores, strict=True):
        awareness.apply_delta(delta)
        assert awareness.score == score
        assert awareness.scale_timeout(2.0) == 2.0 * (score + 1)
