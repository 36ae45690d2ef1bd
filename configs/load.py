"""YAML files and overrides in, a checked `RunConfig` out.

Precedence: the schema's defaults, then files from left to right, then `a.b=value`. A section whose
`target` or `model_type` changes is replaced, not merged: another component's arguments never survive. OmegaConf stays
inside this file; everyone else sees plain dataclasses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_origin

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from configs.errors import ConfigError, nearest
from configs.keys import check_keys, child, expected, fields
from configs.rules import check_rules
from configs.schema import RunConfig

__all__ = ["dump_config", "load_config", "presets", "read_config"]

Tree = dict[str, Any]

DEFAULT_PRESET = Path(__file__).parent / "quickstart.yaml"
SELECTORS = ("target", "model_type")
"""Keys of free sections that say what the other keys are arguments of."""


def read_config(words: Sequence[str]) -> RunConfig:
    """Return the configuration of preset files and `key=value` words, in their order; see `load_config`."""
    return load_config([Path(w) for w in words if "=" not in w] or [DEFAULT_PRESET], [w for w in words if "=" in w])


def load_config(paths: Sequence[Path], overrides: Sequence[str]) -> RunConfig:
    """Return the configuration of a run.

    Args:
      paths: YAML files; later ones win.
      overrides: `a.b=value`, values in YAML; later ones win over all files.

    Raises:
      ConfigError: missing or malformed file, unknown key, wrong type, refused value or combination.
    """
    values: Tree = dataclasses.asdict(RunConfig())
    lines: dict[str, str] = {}
    for path in paths:
        tree, marks = _read(Path(path))
        check_keys(tree, marks)
        lines |= marks
        values = _merge(values, tree, RunConfig)
    # Overrides form one layer: `x.target=a` after `x.b=1` must not discard the `b` just asked for.
    layer: Tree = {}
    for text in overrides:
        tree, marks = _override(text)
        check_keys(tree, marks)
        lines |= marks
        layer = cast(Tree, OmegaConf.to_container(OmegaConf.merge(layer, tree)))
    values = _merge(values, layer, RunConfig)
    config = _to_schema(values, lines)
    check_rules(config)
    return config


def dump_config(config: RunConfig, path: Path) -> None:
    """Write every setting as YAML that `load_config([path], [])` reads back as an equal configuration."""
    settings = _escaped(dataclasses.asdict(config))
    draft = path.with_name(f"{path.name}.tmp")  # a killed writer leaves the old file or the new one
    draft.write_text(yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")
    draft.replace(path)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that is not a plain word, so that 1e-3 stays a text and no character is lost."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> Any:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def presets(folder: str = ".") -> list[tuple[str, str]]:
    """Return (name, first comment) of every YAML file beside this module, or in a folder there."""
    return [(path.stem, _first_comment(path)) for path in sorted((Path(__file__).parent / folder).glob("*.yaml"))]


def _read(path: Path) -> tuple[Tree, dict[str, str]]:
    """Return a file's settings, and `file:line` of each dotted key."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        known = [f"configs/{name}.yaml" for name, _ in presets()]
        rule = "it must be a YAML file, or a setting written key=value"
        raise ConfigError(f"{path} does not exist; {rule}{nearest(str(path), known)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; give a YAML file") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: malformed YAML: {error.problem}; correct the line") from error
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_first_line(error)}; correct the file") from error
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: the file must be a mapping of settings, such as `updates: 200`")
    return cast(Tree, tree), dict(_marks(node, "", path)) if node else {}


def _marks(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        yield dotted, f"{path}:{key.start_mark.line + 1}"
        if isinstance(value, yaml.MappingNode):
            yield from _marks(value, f"{dotted}.", path)


def _override(text: str) -> tuple[Tree, dict[str, str]]:
    key, equals, _ = text.partition("=")
    if key[:1] in ("+", "~", "-"):
        raise ConfigError(f"override {text!r}: prefixes are not used; write a.b=value")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w[\w-]*)*", key):
        raise ConfigError(f"override {text!r}: it must have the form a.b=value; for example updates=20")
    try:
        tree = cast(Tree, OmegaConf.to_container(OmegaConf.from_dotlist([text])))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"override {text!r}: {_first_line(error)}; quote the value: {key}='\"...\"'") from error
    return tree, {key: f"override {text!r}"}


def _merge(below: Tree, above: Tree, kind: Any) -> Tree:
    """Return `below` overlaid with `above`; an empty mapping or another selector replaces a component."""
    is_component = not dataclasses.is_dataclass(kind)
    if is_component and (not above or any(above.get(key, below.get(key)) != below.get(key) for key in SELECTORS)):
        return above
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value, child(kind, key)) if both else value
    return merged


def _to_schema(values: Tree, lines: dict[str, str]) -> RunConfig:
    if values["model"]["path"] and not any(key.startswith("model.architecture") for key in lines):
        # The default architecture is for runs without a model folder.
        values["model"]["architecture"] = {}
    schema = OmegaConf.structured(RunConfig)
    _blank(schema, RunConfig)
    try:
        merged = OmegaConf.merge(schema, OmegaConf.create(values))
        return cast(RunConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise _refusal(error, values, lines) from error


def _blank(node: Any, kind: Any) -> None:
    """Empty the free sections of the schema: `values` holds their defaults, and OmegaConf only adds."""
    for name, inner in fields(kind).items():
        if dataclasses.is_dataclass(inner):
            _blank(node[name], inner)
        elif get_origin(inner) is dict:
            node[name] = {}


def _refusal(error: OmegaConfBaseException, values: Tree, lines: dict[str, str]) -> ConfigError:
    key = error.full_key or ""
    place = f"{lines[key]}: " if key in lines else ""
    words = expected(key)
    if words is None or not isinstance(error, ValidationError):
        return ConfigError(f"{place}{key}: {_first_line(error)}; correct the value")
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return ConfigError(f"{place}{key} is {value!r}; it must be {words}; correct the value")


def _escaped(value: Any) -> Any:
    r"""Return `value` with `${` written `\${`, so that it is not read back as an interpolation."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _first_comment(path: Path) -> str:
    return next(
        (line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")), ""
    )


def _first_line(error: Exception) -> str:
    # The first line of a YAML error is where the parser was, not what it met.
    return str(error.problem) if isinstance(error, yaml.MarkedYAMLError) else str(error).splitlines()[0]
