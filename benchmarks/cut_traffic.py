"""What quantised cut traffic saves and costs: accuracy and cut bytes of one scenario in float32, bfloat16, int8 and int4.

``python -m benchmarks.cut_traffic [--seeds 3] [--set shared.probes=5] [--json]`` runs the quickstart, or the scenario that is named first,
in virtual time for each way of sending activations and duals, with the same seeds for all, and prints a table: cut bytes (activations and
duals, scales included) as a ratio to float32's, all bytes likewise, final accuracy with its spread over the seeds, and the difference from
float32 seed by seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, mean
from typing import Any

from benchmarks import SMALL_RUN, SMALL_SEEDS, new_parser
from hosfl_async.assembly import simulate
from hosfl_async.scenario import load_scenario, scenario_file

QUICKSTART = Path(__file__).parents[1] / "scenarios" / "quickstart.toml"
WAYS = (("float32", "tensor"), ("bfloat16", "tensor"), ("int8", "tensor"), ("int8", "sample"), ("int4", "tensor"), ("int4", "sample"))
"""dtype of activations and duals, and what has a scale of its own."""


def one_run(file: Path, overrides: list[str], seed: int, dtype: str, scale_per: str) -> dict[str, Any]:
    cut = [f'cut.activations="{dtype}"', f'cut.duals="{dtype}"', f'cut.scale_per="{scale_per}"']
    summary = simulate(load_scenario(file, [*overrides, *cut], seed), control=False)
    sent = summary.bytes
    return {
        "accuracy_final": summary.accuracy_final,
        "accuracy_best": summary.accuracy_best,
        "cut_bytes": sent["activations"] + sent["duals"],
        "bytes": sum(sent.values()),
        "client_steps": summary.client_steps,
        "digests_agree": summary.digests_agree,
    }


def control(file: Path, overrides: list[str], seed: int) -> float | None:
    """Accuracy of the frozen client, in float32."""
    frozen = simulate(load_scenario(file, overrides, seed).frozen_control(), control=False)
    return frozen.accuracy_final


def table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The figures as Markdown."""
    plain = runs["float32", "tensor"]
    heads: tuple[str, ...] = ("activations and duals", "scale for each", "cut bytes a step", "fewer cut bytes", "fewer bytes in all")
    heads += ("accuracy_final", "lowest to highest", "difference")
    lines = [_row(*heads), "|---" * len(heads) + "|"]
    for (dtype, scale_per), each in runs.items():
        accuracies = [run["accuracy_final"] for run in each]
        gained = [run["accuracy_final"] - one["accuracy_final"] for one, run in zip(plain, each, strict=True)]
        lines.append(
            _row(
                dtype,
                scale_per if dtype.startswith("int") else "-",
                f"{mean(run['cut_bytes'] / run['client_steps'] for run in each):,.0f}",
                f"{_fewer(plain, each, 'cut_bytes'):.2f}x",
                f"{_fewer(plain, each, 'bytes'):.2f}x",
                f"{mean(accuracies):.4f}",
                f"{min(accuracies):.4f} to {max(accuracies):.4f}",
                f"{mean(gained):+.4f} ({', '.join(f'{one:+.4f}' for one in gained)})",
            )
        )
    return "\n".join(lines)


def _fewer(plain: list[dict[str, Any]], each: list[dict[str, Any]], what: str) -> float:
    return fmean(one[what] / run[what] for one, run in zip(plain, each, strict=True))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("scenario", nargs="?", default=str(QUICKSTART), help="a file, or a name of the gallery")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value, as for hosfl simulate")
    arguments = parser.parse_args()
    file, overrides, seeds = scenario_file(arguments.scenario), arguments.overrides, range(arguments.seeds)
    if arguments.small:
        overrides, seeds = [*overrides, *(f"{key}={value}" for key, value in SMALL_RUN.items())], seeds[:SMALL_SEEDS]
    runs = {way: [one_run(file, overrides, seed, *way) for seed in seeds] for way in WAYS}
    controls = [control(file, overrides, seed) for seed in seeds]
    if arguments.json:
        print(json.dumps({"runs": {" ".join(way): each for way, each in runs.items()}, "frozen_control": controls}, indent=2))
        return
    print(table(runs))
    print(f"frozen control, float32: {', '.join(str(one) for one in controls)}")


if __name__ == "__main__":
    main()
