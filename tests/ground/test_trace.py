"""The journal: equal runs give equal bytes, a torn file gives a beginning, a step has a story."""

from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_messages import chained_entries, few_steps, names, steps, term_lists

from hosfl_async import messages as m
from hosfl_async.errors import CodecError, SettingsError
from hosfl_async.jobs import Forward, TakeSnapshot
from hosfl_async.trace import RECORDS_BUFFERED_MAX, TraceRecord, TraceWriter, parse_step, read_trace, steps_of, story

values = st.none() | st.dictionaries(names, st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5), max_size=3)
notes = st.tuples(
    st.floats(0, 1e9),
    names,
    st.sampled_from(["sent", "delivered", "job_done", "timer"]),
    names,
    st.just("") | few_steps.map(str),
    names,
    st.integers(0, 2**40),
    values,
)


def written(path: Path, taken: list[tuple], flush_after: set[int] = frozenset()) -> bytes:
    with TraceWriter(path) as trace:
        for number, note in enumerate(taken):
            trace.note(*note)
            if number in flush_after:
                trace.flush()
    return path.read_bytes()


@given(st.lists(notes, max_size=12), st.sets(st.integers(0, 11)))
def test_what_is_noted_is_read_in_order_and_numbered(
    tmp_path_factory: pytest.TempPathFactory, taken: list[tuple], flush_after: set[int]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "run.trace"
    packed = written(path, taken, flush_after)
    expected = [TraceRecord(note[0], serial, *note[1:]) for serial, note in enumerate(taken, start=1)]
    assert list(read_trace(path)) == expected
    assert written(path, taken, flush_after) == packed


def sample(count: int) -> list[tuple]:
    return [(number / 8, "client-3", "sent", "Join", f"client-3/{number}", "aggregator", number, {"n": number}) for number in range(count)]


def test_a_file_torn_anywhere_gives_a_beginning(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    packed = written(path, sample(12), {2, 3, 7})
    whole = list(read_trace(path))
    lengths = set()
    for end in range(len(packed) + 1):
        path.write_bytes(packed[:end])
        records = list(read_trace(path))
        assert records == whole[: len(records)]
        lengths.add(len(records))
    assert lengths == {0, 3, 4, 8, 12}


def test_an_unfinished_journal_holds_all_but_the_last_records(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    trace = TraceWriter(path)
    for note in sample(2 * RECORDS_BUFFERED_MAX + 5):
        trace.note(*note)
    assert len(list(read_trace(path))) == 2 * RECORDS_BUFFERED_MAX
    trace.flush()
    assert len(list(read_trace(path))) == 2 * RECORDS_BUFFERED_MAX + 5
    trace.close()
    trace.close()
    trace.note(0.0, "a", "sent")
    assert len(list(read_trace(path))) == 2 * RECORDS_BUFFERED_MAX + 5


def test_an_interrupted_run_keeps_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    with pytest.raises(KeyboardInterrupt), TraceWriter(path) as trace:
        trace.note(1.0, "a", "started")
        raise KeyboardInterrupt
    assert list(read_trace(path)) == [TraceRecord(1.0, 1, "a", "started")]


def test_a_writer_that_is_off_does_nothing(tmp_path: Path) -> None:
    with TraceWriter(None) as trace:
        assert not trace.enabled
        trace.note(1.0, "a", "started")
        trace.flush()
    assert list(tmp_path.iterdir()) == []


def test_the_msgpack_package_reads_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    written(path, sample(3), {0})
    with path.open("rb") as file:
        title, *chunks = msgpack.Unpacker(file)
    assert title == "hosfl trace 1"
    records = [record for chunk in chunks for record in msgpack.unpackb(chunk)]
    assert records[1] == [0.125, 2, "client-3", "sent", "Join", "client-3/1", "aggregator", 1, {"n": 1}]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda packed: b"hello " * 9, "not a journal of a run"),
        (lambda packed: packed.replace(b"trace 1", b"trace 2"), "expected it to begin with 'hosfl trace 1'"),
        (lambda packed: packed + b"\0" * 20, "expected a chunk, found 0000000000"),
        (lambda packed: packed + b"\xc6\xff\xff\xff\xff", "expected a chunk, found c6ffffffff"),
        (lambda packed: packed.replace(b"\xa4sent", b"\xc1sent"), "damaged in the chunk at byte 14"),
        (lambda packed: packed.replace(b"\xa4sent", b"\xa4\xffent"), "damaged in the chunk at byte 14"),
    ],
)
def test_damage_is_named(damage, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    path.write_bytes(damage(written(path, sample(3))))
    with pytest.raises(CodecError, match=f"run.trace: .*{problem}"):
        list(read_trace(path))


# -- stories ------------------------------------------------------------------------------------------


@given(steps)
def test_a_step_is_read_as_it_is_written(step: m.StepId) -> None:
    assert parse_step(str(step)) == step


def test_the_first_incarnation_may_be_spelled_out() -> None:
    assert parse_step("client-3#1/17") == parse_step("client-3/17") == m.StepId("client-3", 1, 17)
    assert parse_step("client-3#2/17") == m.StepId("client-3", 2, 17)


@pytest.mark.parametrize(
    "text", ["", "client-3", "client-3/", "/17", "client-3/x", "client-3#/17", "client-3#a/1", "a b/1", "a/-1", "a/1\n", "a/٣"]
)
def test_what_is_no_step_is_explained(text: str) -> None:
    with pytest.raises(SettingsError, match="expected CLIENT/NUMBER or CLIENT#INCARNATION/NUMBER"):
        parse_step(text)


@given(term_lists(), few_steps)
def test_a_commit_names_the_steps_in_it(terms: tuple[m.Term, ...], step: m.StepId) -> None:
    commit = TraceRecord(1.0, 1, "aggregator", "persisted", "EntryCommitted", steps_of(m.EntryCommitted(chained_entries([terms])[0])))
    assert bool(story([commit], step)) == (step in {term.step for term in terms})


def test_steps_of_messages_jobs_and_what_has_none() -> None:
    step = m.StepId("client-3", 2, 17)
    assert steps_of(m.DualRequest(step)) == steps_of(Forward(step, 0)) == "client-3#2/17"
    assert steps_of(TakeSnapshot()) == steps_of(m.CatchUp(0)) == steps_of(m.ClientJoined("a", 1, 1)) == ""


def test_the_story_of_a_step_is_everything_about_it_in_order_and_nothing_else() -> None:
    told = [
        ("client-3", "job_started", "Forward", "client-3/17"),
        ("client-3", "job_started", "Forward", "client-3/171"),
        ("client-3", "sent", "SmashedData", "client-3/17"),
        ("client-33", "sent", "SmashedData", "client-33/17"),
        ("client-3", "sent", "SmashedData", "client-3#2/17"),
        ("split_server", "delivered", "SmashedData", "client-3/17"),
        ("aggregator", "timer", "deadline", ""),
        ("aggregator", "persisted", "EntryCommitted", "client-1/4 client-3/17 client-3#2/17"),
        ("aggregator", "persisted", "EntryCommitted", "client-1/5 client-3/171"),
        ("client-3", "delivered", "Accepted", "client-3/17"),
    ]
    records = [TraceRecord(float(serial), serial, *words) for serial, words in enumerate(told)]
    assert [record.serial for record in story(records, "client-3/17")] == [0, 2, 5, 7, 9]
    assert [record.serial for record in story(iter(records), "client-3#2/17")] == [4, 7]
    assert story(records, m.StepId("client-3", 1, 17)) == story(records, "client-3#1/17") == story(records, "client-3/17")
    assert story(records, "client-9/1") == []
