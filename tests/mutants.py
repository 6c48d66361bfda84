# SPDX-License-Identifier: LGPL-2.1-or-later
"""What mutmut's mutants say of the tests: ``make mutants`` runs this behind it.

    python -m tests.mutants        in the folder where mutmut ran

Prints each mutant that the tests did not notice, unless it is listed in mutants_equivalent.txt;
also each listed one that is no survivor any more. Exit code 1 if there is either.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("mutants_equivalent.txt")
SURVIVED = ("survived", "no tests", "suspicious")


class Mutant(NamedTuple):
    """A change of one function, apart from the number that mutmut gives it."""

    function: str
    """``drgn_tools.verdict.reliable.judge``."""
    change: tuple[str, ...]
    """Lines that begin with - or +."""

    def __str__(self) -> str:
        return "\n".join((self.function, *self.change))


def mutmut(*arguments: str) -> str:
    """Return what mutmut prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def outcomes() -> dict[str, str]:
    """Return what became of each mutant, by mutmut's name of it."""
    lines = re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", mutmut("results", "--all", "1"), re.M)
    return dict(lines)


def mutant(name: str) -> Mutant:
    """Return the mutant that mutmut calls by this name."""
    # drgn_tools.unwind.base.xǁWalkǁkey__mutmut_3, or x_judge__mutmut_1 outside of a class
    module, _, mangled = name.rpartition("__mutmut_")[0].rpartition(".")
    function = mangled[2:] if mangled.startswith("x_") else mangled[2:].replace("ǁ", ".")
    lines = mutmut("show", name).splitlines()
    changed = [line for line in lines if re.match(r"[-+](?!--|\+\+)", line)]
    return Mutant(
        f"{module}.{function}", tuple(f"{line[0]} {line[1:].strip()}" for line in changed)
    )


def listed() -> Iterator[Mutant]:
    """Yield the mutants that are known to do the same."""
    for paragraph in LIST.read_text().split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line and not line.startswith("#")]
        if lines:
            yield Mutant(lines[0], tuple(lines[1:]))


def main() -> int:
    """Print the survivors that are not listed, and what is listed in vain."""
    found = outcomes()
    survivors = [mutant(name) for name, outcome in found.items() if outcome in SURVIVED]
    equivalent = Counter(listed())
    new = Counter(survivors) - equivalent
    in_vain = equivalent - Counter(survivors)
    for one in new.elements():
        print(f"survived: {one}\n")
    for one in in_vain.elements():
        print(f"listed in {LIST.name}, but no survivor: {one}\n")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(found.values()).items())
    print(f"{len(found)} mutants: {counts}; {len(survivors) - new.total()} known as equivalent")
    return 1 if new or in_vain else 0


if __name__ == "__main__":
    sys.exit(main())
