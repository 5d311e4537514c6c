"""Small faults for the tests to find: cosmic-ray's operators and two of our own, and a sample.

sources -> sites (what could be changed) -> mutants (one change each), drawn with a seed
"""

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

MODULES = (  # relative to vitlit/
    "model/*.py",
    "augment/*.py",
    *(f"data/{name}.py" for name in ("splits", "split_builder", "split_record")),
    *(f"data/{name}.py" for name in ("stratify", "sampler", "leakage")),
    "tasks/*.py",
    "training/*.py",
    "training/optim/*.py",
    "weights/*.py",
    "deploy/*.py",
    "evaluation/*.py",
    *(f"cli/{name}.py" for name in ("check_settings", "options", "request", "safe_yaml")),
    *(f"cli/{name}.py" for name in ("from_checkpoint", "from_weights", "configs", "advice")),
)
KINDS = {  # how the names of cosmic-ray's operators begin -> kind
    "ReplaceComparisonOperator": "comparison",
    "ReplaceBinaryOperator": "arithmetic",
    "ReplaceUnaryOperator": "boolean",
    "ReplaceTrue": "boolean",
    "ReplaceFalse": "boolean",
    "ReplaceAnd": "boolean",
    "ReplaceOr": "boolean",
    "AddNot": "boolean",
    "NumberReplacer": "number",
    "ReplaceBreak": "flow",
    "ReplaceContinue": "flow",
    "ExceptionReplacer": "flow",
    "RemoveDecorator": "flow",
    "ZeroIterationForLoop": "flow",
}
# Equal strings and small integers are mostly one object: `is` for `==` is no fault that shows.
IDENTITY = re.compile(r"Operator_(Eq|NotEq|Lt|LtE|Gt|GtE)_Is|Operator_Is(Not)?_(Eq|NotEq|Lt|Gt)")

Span = tuple[tuple[int, int], tuple[int, int]]  # (line, column) of start and end


class ReturnNothing(Operator):
    """``return x`` becomes ``return None``."""

    def mutation_positions(self, node):
        if node.type == "return_stmt" and node.children[1].get_code().strip() != "None":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.children[1] = parso.parse(" None")
        return node

    @classmethod
    def examples(cls):
        return ()


class RemoveArgument(Operator):
    """A call loses a keyword argument. (Without one by position, most calls fail at once.)"""

    def mutation_positions(self, node):
        for argument in self._named(node):
            yield argument.start_pos, argument.end_pos

    @staticmethod
    def _named(node):
        if node.type != "arglist" or node.parent.type != "trailer":
            return []
        pairs = [child for child in node.children if child.type == "argument"]
        return [pair for pair in pairs if pair.children[1].get_code().strip() == "="]

    def mutate(self, node, index):
        place = node.children.index(self._named(node)[index])
        del node.children[place : place + 2]  # and the comma behind it
        return node

    @classmethod
    def examples(cls):
        return ()


@dataclass(frozen=True)
class Mutant:
    number: int
    module: str  # path below the repository
    kind: str
    line: int
    code: str  # the module's source with the change

    def change(self, source: str) -> str:
        """The changed lines, as a diff shows them."""
        lines = unified_diff(source.splitlines(), self.code.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def operators() -> Iterator[tuple[str, Operator]]:
    """Kind and operator, in a fixed order."""
    provider = OperatorProvider()
    for name in sorted(provider):
        kind = next((kind for start, kind in KINDS.items() if name.startswith(start)), None)
        if kind is not None and not IDENTITY.search(name):
            yield kind, provider[name]()
    yield "return", ReturnNothing()
    yield "argument", RemoveArgument()


def annotated(source: str) -> list[Span]:
    """Where annotations stand, in which a change is either none or fails at import."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            notes.append(node.value)  # a type alias, or a lookup that has no operator
        for note in filter(None, notes):
            start = (note.lineno, note.col_offset)
            spans.append((start, (note.end_lineno, note.end_col_offset)))
    return spans


def sites(source: str) -> dict[tuple[str, Span], list[tuple[Operator, int]]]:
    """(kind, place) -> what could be done there: an operator and its occurrence."""
    every, notes = list(ast_nodes(parso.parse(source))), annotated(source)
    types = {"arithmetic": "operator", "comparison": "comparison"}  # these operators are many
    nodes = {kind: [node for node in every if node.type == name] for kind, name in types.items()}
    found: dict[tuple[str, Span], list[tuple[Operator, int]]] = {}
    for kind, operator in operators():
        spans = (
            span for node in nodes.get(kind, every) for span in operator.mutation_positions(node)
        )
        for occurrence, span in enumerate(spans):
            if not any(start <= span[0] and span[1] <= end for start, end in notes):
                found.setdefault((kind, span), []).append((operator, occurrence))
    return found


def drawn(module: str, source: str, rng: random.Random) -> Iterator[tuple[str, int, str]]:
    """Kind, line and code of one mutant for each site, in random order."""
    ways = sites(source)
    places = sorted(ways)
    rng.shuffle(places)
    for kind, span in places:
        operator, occurrence = rng.choice(ways[kind, span])
        code = mutate_code(source, operator, occurrence)
        try:
            compile(code, module, "exec")
        except SyntaxError:  # such as a changed bare asterisk
            continue
        if ast.dump(ast.parse(code)) != ast.dump(ast.parse(source)):
            yield kind, span[0][0], code


def shares(lines: dict[str, int], count: int) -> dict[str, int]:
    """How many mutants each module gets: in proportion to its lines, ``count`` in all."""
    total = sum(lines.values())
    exact = {name: count * size / total for name, size in lines.items()}
    whole = {name: int(share) for name, share in exact.items()}
    left = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in left[: count - sum(whole.values())]:
        whole[name] += 1
    return whole


def sample(root: Path, count: int, seed: int, modules: tuple[str, ...] = MODULES) -> list[Mutant]:
    """Mutants of the modules, spread in proportion to their lines."""
    paths = sorted({path for pattern in modules for path in (root / "vitlit").glob(pattern)})
    sources = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths}
    lines = {name: len(text.splitlines()) for name, text in sources.items()}
    lines = {name: size for name, size in lines.items() if size > 1}
    mutants: list[Mutant] = []
    for name, share in shares(lines, count).items():
        rng = random.Random(f"{seed} {name}")
        for _, found in zip(range(share), drawn(name, sources[name], rng), strict=False):
            mutants.append(Mutant(len(mutants), name, *found))
    return mutants
