"""Groups that take a share of the fleet: the counts that follow from it, written into the tables before the schema reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from hosfl_async.errors import SettingsError
from hosfl_async.scenario.problems import Source, found


def count_shares(tables: dict[str, Any], source: Source) -> Iterator[SettingsError]:
    """Write the counts; yields a problem for each share that cannot be. Values of a wrong type are left to the schema.

    The groups' borders on the line from 0 to ``fleet_size`` are rounded, not their lengths: nobody is lost in rounding.
    """
    size, fleet = tables.get("fleet_size", 0), tables.get("fleet")
    groups = [group for group in fleet if isinstance(group, dict)] if isinstance(fleet, list) else []
    shares = [group.get("share", 0) for group in groups]
    if type(size) is not int or not all(type(share) in (int, float) and 0 <= share <= 1 for share in shares) or not any(shares):
        return
    borders = [round(border * size) for border in accumulate(shares, initial=0.0)]
    for index, group in enumerate(groups):
        count = borders[index + 1] - borders[index]
        if shares[index] and count < 1:
            yield source.problem(("fleet", index, "share"), f"no device of {size}", expected="a share of at least one device of fleet_size")
            return
        elif shares[index] and group.setdefault("count", count) != count:
            yield source.problem(
                ("fleet", index, "count"),
                "not the share of fleet_size",
                expected=str(count),
                found=found(group["count"]),
                mend="leave it out",
            )
    counts = [group.get("count", 1) for group in groups]
    if all(type(count) is int for count in counts) and sum(counts) != size:
        yield source.problem(("fleet_size",), "not the sum of the groups' devices", expected=str(sum(counts)), found=str(size))
