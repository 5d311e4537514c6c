"""Which of the fast tests reach a line of the package, and in which order to try them.

files of coverage and of pytest's times -> tests of a mutant, batch by batch
"""

from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from mutants import Mutant

ROOT = Path(__file__).resolve().parents[1]
FIRST_SECONDS = 5.0  # of tests that are collected and run before the others


class Reach:
    """Which tests reach a line, and how long each takes, from runs of the tests with coverage."""

    def __init__(self, folder: Path) -> None:
        from coverage import CoverageData

        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {}  # module -> line -> tests
        for path in sorted(folder.glob("*.xml")):
            for case in ElementTree.parse(path).iter("testcase"):
                test = node_id(case.attrib["classname"], case.attrib["name"])
                if not list(case.iter("failure")) and not list(case.iter("error")):
                    self.seconds[test] = float(case.attrib["time"])
        for path in sorted(folder.glob("*.coverage")):
            data = CoverageData(str(path))
            data.read()
            for measured in data.measured_files():
                module = "vitlit/" + measured.rpartition("/vitlit/")[2]
                lines = self.lines.setdefault(module, {})
                for line, contexts in data.contexts_by_lineno(measured).items():
                    tests = (context.rpartition("|")[0] for context in contexts)
                    lines.setdefault(line, set()).update(test for test in tests if test)

    def tests(self, mutant: Mutant) -> list[str]:
        """Those of the mirror first, then by time.

        What runs at import, or in a fixture, is put down to the first test: so all count that reach
        any line of the module, those that reach this one before the others.
        """
        lines = self.lines.get(mutant.module, {})
        near = lines.get(mutant.line, set())
        every = set().union(*lines.values()) if lines else set()
        dotted = mutant.module.removesuffix(".py").replace("/", ".")
        users = {file for file, text in test_sources().items() if f"{dotted} import" in text}
        every |= {test for test in self.seconds if test.partition("::")[0] in users}  # constants
        stem = Path(mutant.module).stem
        package = Path(mutant.module).parts[1]  # tests/ has no folders below those of the packages

        def rank(test: str) -> tuple[bool, bool, float]:
            own = f"tests/{package}/test_{stem}" in test
            return (test not in near, not own, self.seconds[test])

        return sorted((test for test in every if test in self.seconds), key=rank)


@cache
def test_sources() -> dict[str, str]:
    paths = ROOT.glob("tests/**/test_*.py")
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def node_id(classname: str, name: str) -> str:
    return classname.replace(".", "/") + ".py::" + name


def batches(tests: list[str], seconds: dict[str, float], limit: float) -> list[list[str]]:
    """The first few, then the others within the limit; each sorted so that files stay together."""
    parts: list[list[str]] = [[], []]
    spent = 0.0
    for test in tests:
        if spent + seconds[test] > limit and parts[0]:
            continue
        spent += seconds[test]
        parts[spent > FIRST_SECONDS and bool(parts[0])].append(test)
    order = {test: place for place, test in enumerate(tests)}
    found = []
    for part in filter(None, parts):
        files: dict[str, int] = {}
        for test in part:
            files.setdefault(test.partition("::")[0], order[test])
        found.append(sorted(part, key=lambda test: (files[test.partition("::")[0]], order[test])))
    return found
