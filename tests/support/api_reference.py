"""The reference of the Python API, `engine/API.md`: signatures and docstrings of all names in `metta.api`.

It is read from the source files, in which the string below an attribute is its description.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "engine"
TOML_REFERENCE = "../presets/README.md#reference"
SECTIONS = {
    "Configuration": ("config",),
    "Environments": ("world", "spaces"),
    "Policies": ("agent", "baselines"),
    "Training loop": ("rl",),
    "Checkpoints": ("checkpoint",),
    "Evaluation": ("evaluation", "experiments"),
    "Runs": ("run", "job_environment", "allocator"),
    "Experiments": ("experiments",),
    "Replays and reports": ("replay", "report"),
}
"""Section of the page -> packages and modules whose names it documents."""


@dataclass(frozen=True)
class Entry:
    """A documented statement of a module or class."""

    name: str
    node: ast.stmt
    description: str


def api_reference() -> str:
    """A section for each part of the library, with an entry for each public name."""
    by_section: dict[str, list[str]] = {section: [] for section in SECTIONS}
    section_of = {package: section for section, packages in SECTIONS.items() for package in packages}
    for module, names in _public_names():
        entries = {entry.name: entry for entry in _entries(_parsed(module).body)}
        section = by_section[section_of[module.split(".")[1]]]
        constants = [name for name in names if isinstance(entries[name].node, ast.Assign | ast.AnnAssign)]
        section += _constants([entries[name] for name in constants])
        for name in names:
            if isinstance(node := entries[name].node, ast.ClassDef):
                section.append(_class(node))
            elif isinstance(node, ast.FunctionDef):
                section.append(f"### `{name}`\n\n`{_signature(node)}`\n\n{inspect.cleandoc(entries[name].description)}")
    return "\n\n".join(
        [_index(by_section), *(f"## {name}\n\n" + "\n\n".join(texts) for name, texts in by_section.items())]
    )


def _index(by_section: dict[str, list[str]]) -> str:
    """Each section with links to its entries."""
    lines = []
    for section, texts in by_section.items():
        names = [re.findall(r"`(\w+)`", text.partition("\n")[0]) for text in texts]
        links = ", ".join(f"[`{entry[0]}`](#{'-'.join(entry).lower()})" for entry in names)
        lines.append(f"- **{section}**: {links}")
    return "\n".join(lines)


def _public_names() -> Iterator[tuple[str, list[str]]]:
    """Each module of the type stub with its public names."""
    for node in ast.parse((ENGINE / "metta/api.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield str(node.module), [alias.name for alias in node.names]


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse((ENGINE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))


def _entries(body: list[ast.stmt]) -> Iterator[Entry]:
    """The classes, functions and assignments of a body. Constants without a string share that of the next one."""
    waiting: list[tuple[str, ast.stmt]] = []
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield Entry(node.name, node, ast.get_docstring(node) or "")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            waiting.append((ast.unparse(target), node))
            if not (waiting[-1][0].isupper() and isinstance(following, ast.Assign | ast.AnnAssign)):
                below = following.value if isinstance(following, ast.Expr) else None
                description = str(below.value) if isinstance(below, ast.Constant) else ""
                yield from (Entry(name, assigned, description) for name, assigned in waiting)
                waiting = []


def _constants(entries: list[Entry]) -> Iterator[str]:
    """An entry for each description, with all names that share it."""
    for description in dict.fromkeys(entry.description for entry in entries):
        shared = [entry for entry in entries if entry.description == description]
        titles = ", ".join(f"`{entry.name}`" for entry in shared)
        values = ", ".join(f"`{entry.name} = {value}`" for entry in shared if (value := _literal(entry.node)))
        yield "\n\n".join(filter(None, [f"### {titles}", values, inspect.cleandoc(description)]))


def _literal(node: ast.stmt) -> str:
    """The value of an assignment if it is a number or string, or a union of types; else empty."""
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    assert node.value is not None
    is_shown = isinstance(node.value, ast.Constant | ast.BinOp | ast.Subscript)
    return ast.unparse(node.value) if is_shown else ""


def _class(node: ast.ClassDef) -> str:
    parts = [f"### `{node.name}`", ast.get_docstring(node) or ""]
    if _is_config_model(node):
        keys = [entry for entry in _entries(node.body) if _is_public_field(entry)]
        listed = ", ".join(f"`{entry.name}`" for entry in keys)
        if listed:
            parts.append(f"Fields, described in the [reference of the TOML file]({TOML_REFERENCE}): {listed}.")
    else:
        if constructor := _constructor(node):
            parts.append(f"`{constructor}`")
        parts += _attributes(node)
    parts += _methods(node)
    return "\n\n".join(parts)


def _is_config_model(node: ast.ClassDef) -> bool:
    """Whether a class is a table of the TOML file: its fields have descriptions for the reference of that file."""
    return any(isinstance(field, ast.AnnAssign) and "description=" in ast.unparse(field) for field in node.body)


def _is_public_field(entry: Entry) -> bool:
    is_constant = isinstance(entry.node, ast.AnnAssign) and "ClassVar" in ast.unparse(entry.node.annotation)
    return isinstance(entry.node, ast.AnnAssign) and not entry.name.startswith("_") and not is_constant


def _constructor(node: ast.ClassDef) -> str:
    """The call that creates an object; empty for a dataclass, whose attributes are its parameters."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _signature(statement).replace("__init__", node.name, 1).removesuffix(" -> None")
    return ""


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """A table of the attributes and properties that are described."""
    body = [statement for statement in node.body if not isinstance(statement, ast.FunctionDef)]
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            body += function.body
    rows = []
    for entry in _entries(body):
        name = entry.name.removeprefix("self.")
        if isinstance(entry.node, ast.AnnAssign) and not name.startswith("_") and "." not in name:
            default = f" = {_default(entry.node.value)}" if entry.node.value and entry.name == name else ""
            if entry.description or entry.name == name:
                rows.append((name, ast.unparse(entry.node.annotation) + default, entry.description))
    for function in _functions(node, is_property=True):
        returns = ast.unparse(function.returns) if function.returns else ""
        rows.append((function.name, returns, ast.get_docstring(function) or ""))
    if rows:
        lines = [
            f"| `{name}` | `{kind}` | {_one_line(text)} |".replace(" | None", " \\| None") for name, kind, text in rows
        ]
        yield "\n".join(["| attribute | type | meaning |", "|---|---|---|", *lines])


def _default(value: ast.expr) -> str:
    """The default of a dataclass field, such as `PPOConfig()` for `field(default_factory=PPOConfig)`."""
    return re.sub(r"^[Ff]ield\(default_factory=(\w+)\)$", r"\1()", ast.unparse(value))


def _methods(node: ast.ClassDef) -> Iterator[str]:
    """A list of the public methods; for tables of the TOML file and protocols also their properties."""
    items = []
    for function in _functions(node, is_property=False):
        text = (ast.get_docstring(function) or "").replace("\n", "\n  ")
        items.append(f"- `{_signature(function)}`\n\n  {text}".rstrip())
    if items:
        yield "\n\n".join(re.sub(r"\n +\n", "\n\n", item) for item in items)


def _functions(node: ast.ClassDef, *, is_property: bool) -> Iterator[ast.FunctionDef]:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_"):
            decorators = {ast.unparse(decorator) for decorator in statement.decorator_list}
            is_validator = any(name.startswith(("field_", "model_")) for name in decorators)
            if not is_validator and bool(decorators & {"property", "cached_property"}) == is_property:
                yield statement


def _signature(node: ast.FunctionDef) -> str:
    """`name(parameter: type = default) -> type`, without `self`."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    shown = [_parameter(argument, default) for argument, default in zip(positional, defaults, strict=True)]
    if positional and positional[0].arg in ("self", "cls"):
        del shown[0]
    if arguments.vararg:
        shown.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += map(_parameter, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        shown.append(f"**{_parameter(arguments.kwarg, None)}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({', '.join(shown)}){returns}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{annotation}" + (f" = {ast.unparse(default)}" if default else "")


def _one_line(docstring: str) -> str:
    return " ".join(docstring.split()).replace("|", "\\|")
