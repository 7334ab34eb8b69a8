# SPDX-License-Identifier: Apache-2.0
"""What the outcomes on Flax and with jaxbn mean, test by test."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Verdict(NamedTuple):
    """Of the tests that pass on Flax, those that pass and fail with jaxbn."""

    passed: list[str]
    listed: dict[str, str]  # these fail as the list of differences says: why, by test
    wrong: dict[str, str]  # the error, by test; also where the list is out of date
    broken: dict[str, str]  # these fail on Flax itself: the error

    def lines(self) -> Iterator[str]:
        """What to print: tests with one reason together, in the order they ran."""
        for title, found in (
            ("These fail on Flax itself and are left out:", self.broken),
            ("These differ as listed:", self.listed),
            ("These are wrong; a failure may spoil those after it:", self.wrong),
        ):
            if found:
                yield title
            for why in dict.fromkeys(found.values()):
                yield f"  {why}"
                yield from (f"    {test}" for test in found if found[test] == why)
        yield (
            f"{len(self.passed)} tests pass on Flax and with jaxbn, "
            f"{len(self.listed)} differ as listed, {len(self.wrong)} are wrong."
        )


def compare(
    flax: Mapping[str, str], jaxbn: Mapping[str, str], differences: Mapping[str, str]
) -> Verdict:
    """Compares outcomes, each `""` for passed or an error, by test or file.

    With jaxbn, a test that passes on Flax must pass if it is not in the list, and fail
    if it is.
    """
    verdict = Verdict([], {}, {}, {})
    for test, error in flax.items():
        ours = jaxbn.get(test, "not run")
        if error and "::" not in test:
            verdict.wrong[test] = f"cannot be imported: {error}"
        elif error:
            verdict.broken[test] = error
        elif test not in differences:
            if ours:
                verdict.wrong[test] = ours
            else:
                verdict.passed.append(test)
        elif ours:
            verdict.listed[test] = differences[test]
        else:
            verdict.wrong[test] = "in the list of differences, but it passes"
    for test, error in jaxbn.items():
        if error and test not in flax:
            verdict.wrong[test] = f"not run on Flax; with jaxbn: {error}"
    for test in sorted(differences.keys() - flax.keys()):
        verdict.wrong[test] = "in the list of differences, but no test of this Flax"
    return verdict
