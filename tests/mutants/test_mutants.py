"""The list of planted bugs cannot rot unseen; in `make soak` each of them is planted and must be killed."""

from __future__ import annotations

import pytest
from catalogue import MUTANTS, Mutant
from run import TESTS, hunt, planted, run_tests

each = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@each
def test_the_text_it_replaces_occurs_exactly_once_and_what_replaces_it_is_python(mutant: Mutant) -> None:
    compile(planted(mutant), mutant.file, "exec")
    for test in mutant.tests:
        assert (TESTS / test.split("::")[0]).is_file(), test


def test_names_differ_and_there_are_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 14


@pytest.mark.soak
def test_the_tests_pass_where_no_bug_is_planted() -> None:
    status, output = run_tests(None, tuple(sorted({test for mutant in MUTANTS for test in mutant.tests})))
    assert status == 0, output


@pytest.mark.soak
@each
def test_it_is_killed(mutant: Mutant) -> None:
    killed, by = hunt(mutant)
    assert killed, f"{mutant.name} survived: {mutant.why} ({by})"
