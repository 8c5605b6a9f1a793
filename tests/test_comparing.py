"""What a comparison makes of curves, against its definitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.report.comparing import Comparison, comparison_markdown, comparison_table, method_figures, method_run
from hosfl_async.report.recorder import Evaluation
from hosfl_async.report.summary import Staleness, Summary

shares = st.integers(0, 100).map(lambda percent: percent / 100)
accuracies = st.lists(shares, min_size=1, max_size=8)


def evaluations(curve: list[float]) -> list[Evaluation]:
    return [Evaluation(10.0 * n, 5 * n, 6 * n, n, accuracy, 1.0, 0.0, {"log": 7 * n, "duals": n}) for n, accuracy in enumerate(curve)]


def summary(curve: list[float], seed: int) -> Summary:
    return Summary(
        scenario="a", seed=seed, host="simulation", method="hosfl_async", accuracy_final=curve[-1], accuracy_best=max(curve),
        accuracy_frozen_control=None, client_steps=1, server_steps=1, version=1, modelled_time_s=1, wall_time_s=1, bytes={}, messages={},
        staleness=Staleness(mean=0, p50=0, p99=0, max=0), counts={}, clients=1, clients_confirmed=1, digest=None, digests_agree=True,
        peak_rss_bytes=1,
    )  # fmt: skip


@given(st.lists(accuracies, min_size=1, max_size=4), shares, shares)
def test_costs_are_those_of_the_first_evaluation_at_the_target(curves: list[list[float]], target: float, lower: float) -> None:
    def at(target: float):
        return method_figures([method_run(summary(curve, seed), evaluations(curve), 32, target) for seed, curve in enumerate(curves)], 4)

    figures = at(target)
    firsts = [next((n for n, accuracy in enumerate(curve) if accuracy >= target), None) for curve in curves]
    assert figures.reached == sum(first is not None for first in firsts)
    if None in firsts:
        assert figures.samples_to_target is figures.time_to_target_s is figures.bytes_to_target is None
    else:
        mean = sum(firsts) / len(firsts)
        for found, unit in ((figures.samples_to_target, 5 * 32), (figures.time_to_target_s, 10.0), (figures.bytes_to_target, 8)):
            assert abs(found - unit * mean) < 1e-9 * max(1.0, found)
    easier = at(min(target, lower))
    assert easier.reached >= figures.reached
    if figures.time_to_target_s is not None:
        assert easier.time_to_target_s <= figures.time_to_target_s
    finals = [curve[-1] for curve in curves]
    assert figures.spread == max(finals) - min(finals) and min(finals) - 1e-12 <= figures.accuracy_final <= figures.accuracy_best + 1e-12


def test_a_target_that_is_never_reached_is_told_so() -> None:
    runs = [method_run(summary([0.1, 0.4], 0), evaluations([0.1, 0.4]), 32, 0.9)]
    comparison = Comparison(
        scenario="a", seeds=[0], clients=4, target=0.9, batch_size=32, overrides=["x=1"], methods={"hosfl_async": method_figures(runs, 4)}
    )
    text = comparison_markdown(comparison)
    assert "| hosfl_async | 4 | 0.400 | 0.000 | 0.400 | never | never | never | 0 of 1 |" in text
    assert "target accuracy 0.9, with x=1" in text
    assert comparison_table(comparison).row_count == 1
