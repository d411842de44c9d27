"""Fails unless each extension has a `.pyi` beside it that names exactly what Python can reach in it.

Compared: public names of the module, public members of its classes, and parameter names where Cython kept a signature.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ("meshcore", "ztunnel", "waypoint", "bench")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(name: str) -> bool:
    return not name.startswith("_")


def stub_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Public names that a stub's module or class body defines."""
    names: dict[str, ast.stmt] = {}
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names[name] = statement
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                names[name] = statement
    return {name: statement for name, statement in names.items() if public(name)}


def module_names(module: types.ModuleType) -> set[str]:
    """Public names that the extension itself defines: what it imported from elsewhere does not count."""
    return {
        name
        for name, value in vars(module).items()
        if public(name)
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


def compare_parameters(where: str, stub: ast.stmt, value: object) -> list[str]:
    if not isinstance(stub, Function) or any(
        isinstance(d, ast.Name) and d.id == "property" for d in stub.decorator_list
    ):
        return []
    try:
        actual = list(inspect.signature(value).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []
    spec = stub.args
    stars = [argument.arg for argument in (spec.vararg, spec.kwarg) if argument]
    written = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)] + stars
    if sorted(actual) == sorted(written):
        return []
    return [f"{where}: the stub says ({', '.join(written)}), the extension ({', '.join(actual)})"]


def compare(where: str, stub: dict[str, ast.stmt], actual: dict[str, object]) -> list[str]:
    """Differences between a stub's names and those that exist, each as one line."""
    problems = [f"{where}.{name}: in the stub, not in the extension" for name in sorted(stub.keys() - actual.keys())]
    problems += [f"{where}.{name}: in the extension, not in the stub" for name in sorted(actual.keys() - stub.keys())]
    for name in sorted(stub.keys() & actual.keys()):
        statement, value = stub[name], actual[name]
        if isinstance(statement, ast.ClassDef) and isinstance(value, type):
            members: dict[str, object] = {member: item for member, item in vars(value).items() if public(member)}
            problems += compare(f"{where}.{name}", stub_names(statement.body), members)
        else:
            problems += compare_parameters(f"{where}.{name}", statement, value)
    return problems


def check(source: Path) -> list[str]:
    """Problems of the extension built from `source`."""
    name = source.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    stub = source.with_suffix(".pyi")
    if not stub.exists():
        return [f"{name}: {stub.relative_to(ROOT)} is missing"]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return [f"{name}: cannot be imported: {error}"]
    tree = ast.parse(stub.read_text(), str(stub))
    return compare(name, stub_names(tree.body), {key: getattr(module, key) for key in module_names(module)})


def main() -> int:
    sys.path.insert(0, str(ROOT))
    problems = [
        problem
        for package in COMPILED
        for source in sorted((ROOT / package).glob("*.pyx"))
        for problem in check(source)
    ]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
