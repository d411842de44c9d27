"""Reads every import and cimport of the tree and says which rules of ARCHITECTURE.md they break.

Each rule takes sources, so that it can be tried on text that breaks it, and returns one line per breach.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

COMPONENTS = ("ztunnel", "waypoint", "istiod", "cni")
SHIPPED = ("meshcore", *COMPONENTS, "ambient")
PACKAGES = (*SHIPPED, "bench", "tests")

MAY_USE: dict[str, frozenset[str]] = {
    "meshcore": frozenset({"meshcore"}),
    **{name: frozenset({"meshcore", name}) for name in COMPONENTS},
    "ambient": frozenset(SHIPPED),
    "bench": frozenset(PACKAGES),
    "tests": frozenset(PACKAGES),
}

# Later may use earlier, never the other way round; what is not listed comes after all of them.
MESHCORE_ORDER = ("errors", "identity", "model", "l7", "records", "yamldoc", "manifests", "zds", "netns", "stream")

# Importing them must cost the zygote nothing, so they hold nothing.
EMPTY_PACKAGES = ("meshcore", "ztunnel", "waypoint")

MAX_LINES = 700
OVERSIZE_ALLOWED: frozenset[str] = frozenset()

_STRING_OR_COMMENT = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<string>'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^\\'\n])*'|"(?:\\.|[^\\"\n])*")""",
    re.DOTALL,
)
_FROM_IMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+(c?import)\s*\(?([^)\n]*)\)?")
_IMPORT = re.compile(r"^\s*(c?import)\s+(.+)$")
_INCLUDE = re.compile(r"^\s*include\s*\"\"")
_WITH_GIL = re.compile(r"\bwith\s+gil\b")
_ENVIRONMENT = re.compile(r"\b(?:os\s*\.\s*(?:environb?|getenvb?)|(?:secure_)?getenv)\b")


@dataclass(frozen=True, slots=True)
class Import:
    """`from module import name`, or `import module` with an empty name."""

    module: str
    name: str
    line: int
    compiled: bool = False
    typing_only: bool = False

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path from the root of the repository, its text and what it imports."""

    path: str
    text: str
    imports: tuple[Import, ...] = field(init=False)
    syntax: ast.Module = field(init=False, repr=False)
    fault: str = field(init=False, default="")

    def __post_init__(self) -> None:
        syntax = ast.Module([], [])
        if self.path.endswith((".py", ".pyi")):
            try:
                syntax = ast.parse(self.text)
            except SyntaxError as error:
                object.__setattr__(self, "fault", f"{self.path}:{error.lineno}: {error.msg}")
            found = _python_imports(syntax)
        else:
            found = _cython_imports(self.text)
        object.__setattr__(self, "syntax", syntax)
        object.__setattr__(self, "imports", tuple(found))

    @property
    def package(self) -> str:
        return self.path.partition("/")[0]

    @property
    def module(self) -> str:
        return self.path.rpartition(".")[0].removesuffix("/__init__").replace("/", ".")

    @property
    def is_cython(self) -> bool:
        return self.path.endswith((".pyx", ".pxd"))


@functools.cache
def tree(root: Path = ROOT) -> tuple[Source, ...]:
    """Every source file of every package, read once."""
    return tuple(
        Source(path.relative_to(root).as_posix(), path.read_text())
        for package in PACKAGES
        for suffix in ("py", "pyi", "pyx", "pxd", "pxi")
        for path in sorted((root / package).rglob(f"*.{suffix}"))
    )


def _python_imports(module: ast.Module) -> Iterator[Import]:
    guarded = {
        id(inner)
        for node in ast.walk(module)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(module):
        typing_only = id(node) in guarded
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, "", node.lineno, typing_only=typing_only)
            case ast.ImportFrom(module=str(target), names=names):
                for alias in names:
                    yield Import(target, alias.name, node.lineno, typing_only=typing_only)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(target)), *_]):
                yield Import(target, "", node.lineno)


def blank(text: str) -> str:
    """Cython source with comments removed and every string made empty; line numbers stay."""

    def replace(match: re.Match[str]) -> str:
        newlines = "\n" * match.group().count("\n")
        return newlines if match.group("comment") else f'""{newlines}'

    return _STRING_OR_COMMENT.sub(replace, text)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines: a backslash or an open parenthesis continues one."""
    number, pending = 0, ""
    for current, line in enumerate(blank(text).split("\n"), 1):
        if not pending:
            number = current
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
        elif pending.count("(") > pending.count(")"):
            pending += " "
        else:
            yield number, pending
            pending = ""
    if pending:
        yield number, pending


def _cython_imports(text: str) -> Iterator[Import]:
    for number, statement in _statements(text):
        if found := _FROM_IMPORT.match(statement):
            module, keyword, names = found.groups()
            for name in names.split(","):
                if name.strip():
                    yield Import(module, name.split()[0], number, compiled=keyword == "cimport")
        elif found := _IMPORT.match(statement):
            for module in found.group(2).split(","):
                yield Import(module.split()[0], "", number, compiled=found.group(1) == "cimport")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def syntax(sources: Iterable[Source]) -> list[str]:
    """Every file is Python of the version that runs this; the other rules see nothing in a file that is not."""
    return [source.fault for source in sources if source.fault]


def isolation(sources: Iterable[Source]) -> list[str]:
    """A component sees `meshcore` and itself; nothing shipped sees `bench` or `tests`."""
    return [
        f"{source.path}:{item.line}: {source.package} must not use {item.module}"
        for source in sources
        for item in source.imports
        if item.package in PACKAGES and item.package not in MAY_USE[source.package]
    ]


def private_names(sources: Iterable[Source]) -> list[str]:
    """A name with an underscore stays in its package, and in that package's own tests (tests/KIND/PACKAGE/)."""
    problems = []
    for source in sources:
        parts = source.path.split("/")
        owner = parts[2] if parts[0] == "tests" and len(parts) > 3 else source.package
        for item in source.imports:
            names = [*item.module.split(".")[1:], item.name]
            if (
                item.package in PACKAGES
                and item.package not in {owner, source.package}
                and any(map(_is_private, names))
            ):
                problems.append(f"{source.path}:{item.line}: {item.module} {item.name} is private".replace("  ", " "))
    return problems


def _edges(sources: Iterable[Source], *, compiled: bool) -> dict[str, set[str]]:
    """Which module uses which, of those given; `from package import module` names the module."""
    listed = list(sources)
    known = {source.module for source in listed}
    graph: dict[str, set[str]] = {module: set() for module in known}
    for source in listed:
        for item in source.imports:
            target = f"{item.module}.{item.name}" if f"{item.module}.{item.name}" in known else item.module
            if item.compiled == compiled and not item.typing_only and target in known and target != source.module:
                graph[source.module].add(target)
    return graph


def _cycles(graph: dict[str, set[str]]) -> list[str]:
    """One line per cycle that a depth-first walk meets."""
    problems: list[str] = []
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            problems.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return problems


def cimport_cycles(sources: Iterable[Source]) -> list[str]:
    """Extension modules form a DAG: a `.pxd` and its `.pyx` are one module."""
    return _cycles(_edges([source for source in sources if source.is_cython], compiled=True))


def import_cycles(sources: Iterable[Source]) -> list[str]:
    """So do Python modules, wherever in the file the import stands; imports for the type checker do not count."""
    return _cycles(_edges([source for source in sources if source.path.endswith((".py", ".pyx"))], compiled=False))


def meshcore_order(sources: Iterable[Source]) -> list[str]:
    """Inside `meshcore` a listed module uses only those listed before it."""
    rank = {f"meshcore.{name}": place for place, name in enumerate(MESHCORE_ORDER)}
    problems = []
    for source in sources:
        own = next((rank[name] for name in rank if f"{source.module}.".startswith(f"{name}.")), None)
        if own is None:
            continue
        for item in source.imports:
            target = ".".join(f"{item.module}.{item.name}".split(".")[:2])
            if item.package != "meshcore" or f"{source.module}.".startswith(f"{target}."):
                continue
            if rank.get(target, len(rank)) > own:
                problems.append(f"{source.path}:{item.line}: {source.module} comes before {target}")
    return problems


def includes(sources: Iterable[Source]) -> list[str]:
    """No `include` and no `.pxi`: code is shared by cimport."""
    problems = []
    for source in sources:
        if source.path.endswith(".pxi"):
            problems.append(f"{source.path}: a .pxi file is text to include")
        if source.is_cython:
            problems += [f"{source.path}:{n}: include" for n, line in _statements(source.text) if _INCLUDE.match(line)]
    return problems


def takes_the_gil(sources: Iterable[Source]) -> list[str]:
    """The loop never takes the GIL, and nothing else in an extension needs to ask for it."""
    return [
        f"{source.path}:{number}: with gil"
        for source in sources
        if source.is_cython
        for number, line in _statements(source.text)
        if _WITH_GIL.search(line)
    ]


def environment(sources: Iterable[Source]) -> list[str]:
    """Of what is shipped, only `*/config.py` reads the environment."""
    problems = []
    for source in sources:
        if source.package not in SHIPPED or source.path.endswith("/config.py"):
            continue
        if source.is_cython:
            lines = [number for number, line in _statements(source.text) if _ENVIRONMENT.search(line)]
        else:
            lines = [
                node.lineno
                for node in ast.walk(source.syntax)
                if (isinstance(node, ast.Attribute) and _ENVIRONMENT.fullmatch(ast.unparse(node)))
                or (isinstance(node, ast.ImportFrom) and node.module == "os" and _imports_environment(node))
            ]
        problems += [f"{source.path}:{line}: reads the environment" for line in lines]
    return problems


def _imports_environment(node: ast.ImportFrom) -> bool:
    return any(alias.name in {"environ", "environb", "getenv", "getenvb"} for alias in node.names)


def empty_packages(sources: Iterable[Source]) -> list[str]:
    """`__init__.py` of what the zygote imports holds a docstring at most."""
    return [
        f"{source.path}:{statement.lineno}: {source.package}/__init__.py must stay empty"
        for source in sources
        if source.path in {f"{package}/__init__.py" for package in EMPTY_PACKAGES}
        for statement in source.syntax.body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
    ]


def oversize(sources: Iterable[Source]) -> list[str]:
    """A file that nobody reads whole wants splitting."""
    return [
        f"{source.path}: {count} lines, more than {MAX_LINES}"
        for source in sources
        if (count := source.text.count("\n")) > MAX_LINES and source.path not in OVERSIZE_ALLOWED
    ]


RULES = (
    syntax,
    isolation,
    private_names,
    cimport_cycles,
    import_cycles,
    meshcore_order,
    includes,
    takes_the_gil,
    environment,
    empty_packages,
    oversize,
)
