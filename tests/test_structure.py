"""The shape of the source: rooms and the arrows between them, one way only."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from metta.config.run import RunConfig
from metta.config.validation.key_paths import sections

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine"
SOURCES = {
    ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): file
    for folder, package in ((ENGINE, "metta"), (ROOT, "metta_cli"))
    for file in sorted((folder / package).rglob("*.py"))
}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in SOURCES.items()}
PUBLIC_NAMES = ast.parse((ENGINE / "metta" / "api.pyi").read_text(encoding="utf-8"))
"""The imports of `metta.api`, which makes them when a name is first used."""

FOUNDATION = {"errors", "files", "allocator", "geometry", "job_environment", "random_streams", "spans"}
ORDER = [
    FOUNDATION,
    {"extensions"},
    {"config"},
    {"spaces"},
    {"adapters"},
    {"world", "agent"},
    {"baselines"},
    {"rl"},
    {"checkpoint", "evaluation", "replay"},
    {"run"},
    {"experiments"},
    {"report"},
    {"api"},
    {"gymnasium_registration"},
    {"metta"},
]
"""The rooms, lowest first. A room may import those in the rows above it, never the other way.

Within a room, modules may import each other in any direction without a circle.
"""

LAYERS = {name: layer for layer, names in enumerate(ORDER) for name in names}
PACKAGES: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "allocator": set(),
    "geometry": set(),
    "job_environment": set(),
    "random_streams": {"numpy"},
    "spans": set(),
    "extensions": set(),
    "config": {"pydantic", "pydantic_core", "tomli_w"},
    "spaces": {"gymnasium", "numpy"},
    "adapters": {"gymnasium", "numpy", "pettingzoo"},
    "world": {"numpy"},
    "agent": {"numpy", "torch"},
    "baselines": {"numpy", "torch"},
    "rl": {"numpy", "pydantic", "torch"},
    "checkpoint": {"numpy", "pydantic", "torch"},
    "evaluation": {"numpy", "torch"},
    "replay": {"PIL", "jinja2", "numpy", "torch"},
    "run": {"filelock", "numpy", "psutil", "pydantic", "torch"},
    "experiments": {"filelock", "numpy", "optuna", "pydantic", "sqlalchemy", "tomli_w", "torch"},
    "report": {"jinja2", "numpy"},
    "api": set(),
    "gymnasium_registration": {"gymnasium"},
    "metta": set(),
}
"""What each room may import beside the standard library."""

MOST_LINES, MOST_FUNCTION_LINES, MOST_FILES = 450, 60, 15
"""Lines of a file and of a function, and files side by side in a folder, at most."""

BY_NAME = (
    "metta.api",
    "metta.checkpoint.onnx_export",
    "metta.experiments.tournament.ratings",
    "metta.extensions",
    "metta.replay.video",
    "metta.report.packages",
    "metta.report.read_report",
    "metta.run.loggers",
)
"""Modules that import by name when something is first used: packages of extras, extensions, the public names."""


def each_module(test: Callable[[str], None]) -> Callable[[], None]:
    """The test over all modules: one test, since a thousand that take no time each would take seconds to collect."""

    def over_all_modules() -> None:
        for module in TREES:
            try:
                test(module)
            except AssertionError as error:
                error.add_note(f"in {module}")
                raise

    over_all_modules.__name__, over_all_modules.__doc__ = test.__name__, test.__doc__
    return over_all_modules


def room(module: str) -> str:
    """`metta.config.loading.load` -> `config`; of the command line, `metta_cli`."""
    parts = module.split(".")
    return "metta_cli" if parts[0] == "metta_cli" else parts[1] if parts[1:] else "metta"


def imports(module: str) -> Iterator[str]:
    trees = [TREES[module], PUBLIC_NAMES] if module == "metta.api" else [TREES[module]]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in TREES else str(node.module) for name in submodules)


def test_there_is_something_to_look_at() -> None:
    assert len(TREES) > 40
    assert {"metta.api", "metta.config.loading.load", "metta.world.env", "metta_cli.main"} <= set(TREES)


@each_module
def test_imports_go_down_the_layers(module: str) -> None:
    here = room(module)
    for name in imports(module):
        package, _, _ = name.partition(".")
        if here == "metta_cli":
            assert package != "metta" or name in ("metta.api", "metta.errors"), f"{module} imports {name}"
        elif package in ("metta", "metta_cli"):
            there = room(name)
            assert package == "metta", f"{module} imports {name}"
            assert there == here or LAYERS[there] < LAYERS[here], f"{module} imports {name}"
        elif package not in sys.stdlib_module_names:
            assert package in PACKAGES[here], f"{module} imports {name}"


def test_nothing_imports_in_a_circle() -> None:
    below = {module: {name for name in imports(module) if name in TREES} for module in TREES}
    while leaves := [module for module, names in below.items() if not names]:
        below = {module: names - set(leaves) for module, names in below.items() if module not in leaves}
    assert below == {}


@each_module
def test_imports_stand_at_the_top(module: str) -> None:
    """Not in functions and not behind TYPE_CHECKING: a circle means that a type lives in the wrong file.

    Commands import in functions what takes long to import and not every command needs: rich, prompt_toolkit.
    """
    for scope in ast.walk(TREES[module]):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            lines = [node.lineno for node in ast.walk(scope) if isinstance(node, ast.Import | ast.ImportFrom)]
            assert lines == [] or room(module) == "metta_cli", (
                f"{module} imports inside of {getattr(scope, 'name', 'a function')}"
            )
    names = {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}
    assert not names & {"TYPE_CHECKING", "__import__", "eval", "exec"}
    assert "importlib" not in set(imports(module)) or module in BY_NAME


@each_module
def test_only_the_command_line_prints(module: str) -> None:
    if room(module) != "metta_cli":
        names = {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
        assert "print" not in names
        assert not attributes & {"stdout", "stderr"}


def test_rich_shows_strings_as_they_are() -> None:
    """A console of `output.make_console` reads no markup; titles would be read as markup by any console."""
    for module, tree in TREES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if module != "metta_cli.output":
            assert "Console" not in {call.func.id for call in calls if isinstance(call.func, ast.Name)}, module
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not attributes & {"from_markup", "render_str", "get_console"}, module
        for keyword in (keyword for call in calls for keyword in call.keywords):
            if keyword.arg in ("title", "subtitle", "caption") and module.startswith("metta_cli."):
                made = keyword.value.func if isinstance(keyword.value, ast.Call) else None
                assert isinstance(made, ast.Name), f"{module}: {keyword.arg} is no Text"
                assert made.id in ("Text", "plain_text"), f"{module}: {keyword.arg} is no Text"


@each_module
def test_no_blanket_except(module: str) -> None:
    """`except BaseException` and `except Exception` only to clean up: they must end in a bare raise."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {""}
            place = f"{module}, line {node.lineno}"
            assert "" not in caught, place
            if caught & {"BaseException", "Exception"}:
                assert isinstance(node.body[-1], ast.Raise), place
                assert node.body[-1].exc is None, place


def is_all(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)


@each_module
def test_all_is_sorted_and_true(module: str) -> None:
    tree = TREES[module]
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    defined = {alias.asname or alias.name for node in imported for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and is_all(node):
            exported = ast.literal_eval(node.value)
            assert exported == sorted(exported, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
            assert set(exported) == defined - {"annotations"}


def test_the_public_surface_has_a_list() -> None:
    for module in ("metta.api", "metta.rl.trainer_config"):
        assert any(isinstance(node, ast.Name) and node.id == "__all__" for node in ast.walk(TREES[module]))


@each_module
def test_files_are_split_by_idea(module: str) -> None:
    vague = {"util", "utils", "common", "helper", "helpers", "functions", "base", "misc", "core"}
    assert module.rpartition(".")[2] not in vague
    assert len(SOURCES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@each_module
def test_functions_fit_on_a_screen(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno < MOST_FUNCTION_LINES, f"{module}.{node.name}"


def test_no_room_is_crowded() -> None:
    files = Counter(file.parent.relative_to(ROOT) for file in SOURCES.values() if file.name != "__init__.py")
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}


def test_the_top_level_is_what_it_should_be() -> None:
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        entries = {name.partition("/")[0] for name in listed.split("\0") if name}
    else:  # an unpacked source archive
        entries = {entry.name for entry in ROOT.iterdir()} - {"runs", "build", "dist"}
    named = {"pyproject.toml", "README.md", "LICENSE", "engine", "metta_cli", "presets", "tests"}
    assert {entry for entry in entries if not entry.startswith(".")} == named
    in_engine = {entry.name for entry in ENGINE.iterdir() if not entry.name.endswith(".egg-info")}
    assert in_engine == {"README.md", "API.md", "metta"}
    in_presets = {entry.name for entry in (ROOT / "presets").iterdir() if entry.suffix != ".toml"}
    assert in_presets == {"README.md", "METTAGRID.md", "RULES.md"}


def test_every_config_field_is_read() -> None:
    """By name outside `config/`, or in a property or function there that is used outside, however indirectly."""
    judged = {
        "check",
        "collect_problems",
        "key_paths",
        "load",
        "name_rules",
        "error_messages",
        "object_rules",
        "json_schema",
        "map_sizes",
    }
    inside: dict[str, set[str]] = defaultdict(set)
    """name of a function or constant of `config/` -> names it mentions"""
    reached: set[str] = set()
    for module, tree in TREES.items():
        if room(module).partition(".")[0] != "config":
            reached |= mentioned(tree)
        elif module.rpartition(".")[2] not in judged:
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    inside[node.name] |= mentioned(node)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    inside[node.targets[0].id] |= mentioned(node) | strings(node)
    while new := {name for source in reached & set(inside) for name in inside[source]} - reached:
        reached |= new
    unread = {name for _, table in sections(RunConfig) for name in table.model_fields} - reached
    assert unread == set()


def mentioned(tree: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
    return names | {node.attr for node in reads}


def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
