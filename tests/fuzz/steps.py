"""Many random steps of the compiled hierarchy, compared with the naive model row for row.

`python -m tests.fuzz.steps --steps 10000000` does so many for each policy alone and for any mix of
them. `make sanitize` runs it with a library that stops at an access outside of an array.
"""

from __future__ import annotations

import argparse
import random
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.hierarchy.hierarchy import Hierarchy
from tests.support.hierarchies import Option, compare, rules, spec_of, workload

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_REQUESTS = 200


class Drawn:
    """Choices of a generator of random numbers."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(repr(seed))

    def one(self, options: Sequence[Option]) -> Option:
        """Return one of `options`."""
        return self._random.choice(options)

    def number(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`."""
        return self._random.randint(low, high)


def run(*, seed: int, steps: int, policies: Sequence[str]) -> int:
    """Compare cases until they had `steps` rows in all; return how many rows they had.

    Raises AssertionError, which names the case, for the first that differs.
    """
    done = case = 0
    while done < steps:
        drawn = Drawn((seed, tuple(policies), case))
        given_rules, requests = rules(drawn, policies), workload(drawn, MOST_REQUESTS)
        events_per_call = drawn.one((1, 7, 1 << 16))
        hierarchy = Hierarchy(spec_of(given_rules), events_per_call=events_per_call)
        try:
            done += compare(hierarchy, given_rules, requests)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {', '.join(policies)}, case {case}") from error
        case += 1
    return done


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = plugins.names(plugins.POLICY)
    for policies in (*((name,) for name in names), tuple(names)):
        rows = run(seed=arguments.seed, steps=arguments.steps, policies=policies)
        print(f"{', '.join(policies)}: {rows:,} rows equal the naive model's", flush=True)


if __name__ == "__main__":
    main()
