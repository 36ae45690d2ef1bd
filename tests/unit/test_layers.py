"""Which package may import which, where Ray may be imported, and that every registered name exists."""

from __future__ import annotations

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from configs.registry import resolve

ROOT = Path(__file__).parents[2]
PACKAGES = ("actors", "buffers", "configs", "learners", "rewards")

# What a package may import beside itself. learners.models is a leaf: both sides execute the same network.
LAYERS: dict[str, tuple[str, ...]] = {
    "configs": (),
    "buffers": ("configs",),
    "rewards": ("configs", "buffers", "learners.models"),
    "actors": ("configs", "buffers", "learners.models"),
    "learners.models": ("configs", "buffers"),
    "learners": ("configs", "buffers"),
}
# Foreign libraries and the only places that may import them.
CONFINED: dict[str, tuple[str, ...]] = {
    "ray": (
        *(f"actors.ray_{part}" for part in ("adapter", "jobs", "metrics", "nodes", "placement")),
        "actors.control",
        "launch",
    ),
    "vllm": (
        *(f"actors.engines.vllm_{part}" for part in ("messages", "session", "start", "worker")),
        *(f"actors.serving.vllm_{part}" for part in ("options", "server")),
    ),
    "deepspeed": ("learners",),
    "peft": ("learners.models.adapter",),
    "omegaconf": ("configs.load", "buffers.records.report_data"),
    "duckdb": ("buffers.records",),
}
VAGUE = {"utils", "helpers", "common", "misc"}


@functools.cache
def modules() -> dict[str, Path]:
    """Return dotted name -> file of every module of the project."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    files += [ROOT / "launch.py"] * (ROOT / "launch.py").exists()
    return {name_of(file): file for file in files}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Return every module that a file imports, also inside functions and for typing only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            # `from package import name` imports package.name where that is a module.
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in modules() else module for a in node.names}
    return frozenset(found)


def inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def layer_of(module: str) -> str:
    return "learners.models" if inside(module, ("learners.models",)) else module.split(".")[0]


def test_packages_import_only_the_layers_below_them() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, file in modules().items()
        for target in imports(file)
        if inside(target, PACKAGES) and name != "launch"
        if not inside(target, (layer_of(name), *LAYERS[layer_of(name)]))
        # The package that contains the leaf may use it.
        and not (layer_of(name) == "learners" and inside(target, ("learners",)))
    ]
    assert not wrong


@pytest.mark.parametrize("library", CONFINED)
def test_a_confined_library_is_imported_in_its_places_only(library: str) -> None:
    importers = [name for name, file in modules().items() if any(inside(t, (library,)) for t in imports(file))]
    assert [name for name in importers if not inside(name, CONFINED[library])] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {t for t in imports(file) if t in modules()} - {name} for name, file in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_module_has_a_vague_name() -> None:
    assert [name for name in modules() if name.split(".")[-1] in VAGUE] == []


def registered() -> list[tuple[str, str]]:
    """Return (table, target) of every module-level dict whose values read "module:Class"."""
    found = []
    for name, file in modules().items():
        for node in ast.parse(file.read_text()).body:
            value = getattr(node, "value", None)
            if isinstance(value, ast.Dict):
                entries = [v.value for v in value.values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
                found += [(name, entry) for entry in entries if re.fullmatch(r"[\w.]+:\w+", entry)]
    return found


def test_the_tables_of_the_packages_are_found() -> None:
    assert ("actors.tasks", "actors.tasks.generated:ReasoningGym") in registered()


@pytest.mark.parametrize(("table", "target"), registered())
def test_a_registered_target_can_be_imported(table: str, target: str) -> None:
    found = resolve({}, target, table)
    assert callable(found) or isinstance(found, dict)  # a class, or the table of a package


def test_no_loop_waits_with_wait_for():
    # In Python 3.11 `asyncio.wait_for` can swallow a cancellation that arrives together with the result: a
    # loop that was told to stop then goes on. `asyncio.timeout` does not.
    found = [name for name, path in modules().items() if "asyncio.wait_for(" in path.read_text()]
    assert found == []
