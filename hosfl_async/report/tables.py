"""What a person reads when a run is over: one table, the frozen-client control beside the accuracy, nothing hidden."""

from __future__ import annotations

from rich.table import Table

from hosfl_async.report.summary import Personal, Summary

TIE = 0.01
"""Accuracies closer than this are called a tie."""


def summary_table(summary: Summary) -> Table:
    table = Table(title=_title(summary), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0), title_style="bold")
    table.add_column(justify="left", style="cyan", no_wrap=True)
    table.add_column(justify="left")
    for label, text in _rows(summary):
        table.add_row(label, text)
    return table


def _title(summary: Summary) -> str:
    where = "in virtual time" if summary.host == "simulation" else "over a real broker"
    return f"{summary.scenario}: {summary.method}, {summary.clients} clients, seed {summary.seed}, {where}"


def _rows(summary: Summary) -> list[tuple[str, str]]:
    counts, staleness = summary.counts, summary.staleness
    rows = [
        ("accuracy", f"[bold]{_share(summary.accuracy_final)}[/bold] final, {_share(summary.accuracy_best)} best"),
        ("frozen-client control", _control(summary)),
        ("client steps", f"{summary.client_steps:,} in {summary.version:,} log entries; {summary.server_steps:,} server steps"),
        ("modelled time", f"{summary.modelled_time_s:,.1f} s ({summary.wall_time_s:.1f} s on the wall)"),
        ("staleness", f"mean {staleness.mean:.2f}, median {staleness.p50}, p99 {staleness.p99}, max {staleness.max} versions"),
        ("bytes", _bytes(summary.bytes)),
        ("contributions", _listed(counts, ("accepted", "duplicate", "stale", "refused", "late"))),
        ("network", _listed(counts, ("dropped", "retried", "abandoned"))),
        ("digest", _digest(summary)),
    ]
    if summary.target_met is not None:
        rows.insert(3, ("ended early", f"an evaluation reached the target: {summary.target_met:.3f}"))
    if summary.personal is not None:
        rows.insert(2, ("personal fine-tuning", _personal(summary.personal)))
    rows += [("[red]not met[/red]", f"[red]{problem}[/red]") for problem in summary.unmet]
    return rows


def _share(value: float | None) -> str:
    return "not evaluated" if value is None else f"{value:.3f}"


def _control(summary: Summary) -> str:
    control, mine = summary.accuracy_frozen_control, summary.accuracy_final
    if control is None or mine is None:
        return "this run is the control itself" if summary.method == "frozen_client" else "not computed"
    difference = mine - control
    if abs(difference) < TIE:
        return f"{control:.3f}: a tie; the client half made no difference here"
    return f"{control:.3f}: training the client half {'won' if difference > 0 else 'lost'} {abs(difference) * 100:.1f} points"


def _personal(personal: Personal) -> str:
    gained = f"{personal.before:.3f} before, [bold]{personal.after:.3f}[/bold] after {personal.steps:,} steps, on clients' own tests"
    worst = f"worst client {personal.worst_before:.3f} and {personal.worst_after:.3f}"
    return f"{gained}; {worst}" + (f"; {personal.broken_off} broken off" if personal.broken_off else "")


def _bytes(by_kind: dict[str, int]) -> str:
    total = sum(by_kind.values())
    parts = ", ".join(f"{kind} {_scaled(number)}" for kind, number in sorted(by_kind.items(), key=lambda item: -item[1]) if number)
    return f"{_scaled(total)} in all: {parts}"


def _scaled(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def _listed(counts: dict[str, int], names: tuple[str, ...]) -> str:
    return ", ".join(f"{counts.get(name, 0):,} {name}" for name in names)


def _digest(summary: Summary) -> str:
    if summary.digest is None:
        return "unknown: the run did not end"
    agree = "[green]agree[/green]" if summary.digests_agree else "[bold red]DIFFER[/bold red]"
    return f"{summary.digest[:16]}...: {summary.clients_confirmed} of {summary.clients} clients confirmed it; digests {agree}"
