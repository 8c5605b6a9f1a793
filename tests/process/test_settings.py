"""Settings files of processes: every mistake is one clear text, the environment overrides, paths are seen from the file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agent import Record
from hosfl_async.errors import SettingsError
from hosfl_async.process import load_process_settings
from hosfl_async.process.metrics import Staleness, metrics_page
from hosfl_async.process.settings import scenario_for
from hosfl_async.scenario import load_scenario, scenario_digest

SMALL = Path(__file__).with_name("small.toml")
GOOD = f'run = "r"\nname = "client-2"\nscenario = "{SMALL}"\nstate = "state"\n'


def written(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_paths_are_seen_from_the_file(tmp_path: Path) -> None:
    settings = load_process_settings(written(tmp_path, GOOD + '[broker]\nca = "ca.pem"\n[health]\nfile = "/run/h"\n'), "client")
    assert settings.state == tmp_path / "state" and settings.broker.ca == tmp_path / "ca.pem"
    assert settings.health.file == Path("/run/h") and settings.scenario == SMALL and settings.name == "client-2"


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSFL_RUN", "other")
    monkeypatch.setenv("HOSFL_BROKER__URL", "mqtts://b:1")
    monkeypatch.setenv("HOSFL_REQUIRE_MOSQUITTO", "1")  # not ours, and harmless
    settings = load_process_settings(written(tmp_path, GOOD + '[broker]\nurl = "mqtt://a:2"\npatience_s = 7\n'), "client")
    assert (settings.run, settings.broker.url, settings.broker.patience_s) == ("other", "mqtts://b:1", 7)


def test_health_on_the_command_line_wins(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + '[health]\nfile = "h"\n')
    assert load_process_settings(file, "client", "8080").health.model_dump(include={"port", "file"}) == {"port": 8080, "file": None}
    assert load_process_settings(file, "client", "x.json").health.file == Path("x.json")


WRONG = {
    "unknown key": (GOOD + 'brokr = "x"\n', "client", "brokr"),
    "unknown key in a table": (GOOD + "[health]\nprot = 1\n", "client", "health.prot"),
    "missing": ('run = "r"\n', "client", "2 problems"),
    "not toml": ("run = \n", "client", "not TOML"),
    "bad name": (GOOD.replace("client-2", "a/b"), "client", "name"),
    "no name": (GOOD.replace('name = "client-2"\n', ""), "client", "the client's name"),
    "a service's name": (GOOD, "server", "split_server"),
    "out of range": (GOOD + "[health]\nport = 70000\n", "client", "HOSFL_HEALTH__PORT"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_explained(case: str, tmp_path: Path) -> None:
    text, role, expected = WRONG[case]
    with pytest.raises(SettingsError, match=expected):
        load_process_settings(written(tmp_path, text), role)  # type: ignore[arg-type]


def test_another_scenario_than_the_provisioned_one_is_refused(tmp_path: Path) -> None:
    digest = scenario_digest(load_scenario(SMALL))
    file = written(tmp_path, GOOD + f'scenario_digest = "{digest}"\n')
    assert scenario_for(load_process_settings(file, "client")).clients == 4
    file = written(tmp_path, GOOD + f'scenario_digest = "{digest}"\noverrides = ["shared.probes=9"]\n')
    with pytest.raises(SettingsError, match="not the scenario that this device was provisioned for"):
        scenario_for(load_process_settings(file, "client"))


def test_metrics_without_their_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SettingsError, match=r"metrics.port: it needs prometheus-client: .*pip install 'hosfl-async\[prometheus\]'"):
        metrics_page(None, "run", 1, Staleness())  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 3000), max_size=50))
def test_every_staleness_is_in_its_buckets(versions: list[int]) -> None:
    staleness = Staleness()
    for each in versions:
        staleness.note(0.0, "aggregator", Record("admitted", {"staleness_versions": float(each)}))
        staleness.note(0.0, "aggregator", Record("commit", {"version": 1.0}))
    assert staleness.buckets == [(bound, sum(each <= float(bound) for each in versions)) for bound, _ in staleness.buckets]
    assert (staleness.buckets[-1], staleness.total) == (("+Inf", len(versions)), sum(versions))
