"""A frozen network as one readable Python file that needs nothing but torch."""

import ast
import builtins
import importlib
import importlib.util
import inspect
import json
import math
import symtable
import sys
import textwrap
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from kdnas.errors import InputError
from kdnas.export import standalone

LINE = 110


def encoder_source(network: nn.Module, about: str = "A semantic encoder.") -> str:
    """The text of ``encoder.py``: every class the network is made of, ``build()`` and ``load()``.

    The classes' own source is copied, with the helpers and constants of their modules that they use, in the
    order in which they need each other. The same network always gives the same text.

    Args:
        network: What ``SearchSpace.network`` returned; its ``config`` holds the arguments of its class.
        about: What it is, for the head of the file: a short sentence, and perhaps paragraphs.

    Raises:
        InputError: The network has no ``config`` or one that is not plain data, or a class uses anything but
            torch and Python's standard library.
    """
    cls = type(network)
    config = getattr(network, "config", None)
    if not isinstance(config, Mapping):
        raise InputError(f"{cls.__name__} has no 'config': its space must keep the constructor's arguments there")
    sources = _Sources(cls)
    sources.need(sys.modules[cls.__module__], cls.__name__, cls.__name__)
    sources.need(standalone, "read_safetensors", "encoder.py")
    sources.need(standalone, "Path", "encoder.py")
    for name in ("build", "load"):
        if name in sources.owners:
            raise InputError(f"{cls.__name__} uses a function named {name!r}, which encoder.py defines: rename it")
    parts = [*sources.definitions, _build(cls.__name__, config), _load()]
    # Two blank lines between imports and a class, one between imports and anything else.
    gap = "\n\n\n" if parts[0].startswith(("class", "def", "@")) else "\n\n"
    return _head(about, sources) + gap + "\n\n\n".join(parts) + "\n"


def _head(about: str, sources: "_Sources") -> str:
    # About may hold names from outside; it must not end the docstring.
    about = about.replace("\\", "/").replace('"', "'")
    about = "\n\n".join(textwrap.fill(paragraph, LINE - 3) for paragraph in about.split("\n\n"))
    return f'''"""{about}

Input: float32 images (B, C, H, W) in [0, 1]; they are normalised inside. Output: float32 features (B, D).
It needs torch alone, and the weights in encoder.safetensors beside it:

    from encoder import load
    encoder = load()
"""

{sources.imports()}'''


def _build(name: str, config: Mapping[str, Any]) -> str:
    lines = [f"        {key}={_literal(value, 8, len(key) + 1)},\n" for key, value in config.items()]
    return f'''def build() -> {name}:
    """The encoder with fresh weights, in training mode."""
    return {name}(
{"".join(lines)}    )'''


def _load() -> str:
    return '''def load(path: str | Path | None = None) -> nn.Module:
    """The trained encoder in evaluation mode, its weights from encoder.safetensors beside this file."""
    encoder = build()
    encoder.load_state_dict(read_safetensors(path or Path(__file__).with_name("encoder.safetensors")))
    return encoder.eval()'''


def _literal(value: Any, indent: int, before: int) -> str:
    """``value`` as Python source; one item per line if it holds containers or is too long for its line."""
    if value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if type(value) is str:
        return json.dumps(value, ensure_ascii=False)
    if type(value) is dict and all(type(key) is str for key in value):
        items = [(f"{json.dumps(key, ensure_ascii=False)}: ", item) for key, item in value.items()]
        start, end = "{", "}"
    elif type(value) in (list, tuple):
        items = [("", item) for item in value]
        start, end = "[]" if type(value) is list else "()"
    else:
        raise InputError(f"the network's config holds {value!r}; only numbers, strings, lists and dicts can")
    parts = [key + _literal(item, indent + 4, len(key)) for key, item in items]
    lone = "," if type(value) is tuple and len(parts) == 1 else ""
    flat = start + ", ".join(parts) + lone + end
    nested = any(isinstance(item, list | tuple | dict) for _, item in items)
    if not nested and indent + before + len(flat) + 1 <= LINE:
        return flat
    return start + "".join(f"\n{' ' * (indent + 4)}{part}," for part in parts) + f"\n{' ' * indent}{end}"


class _Sources:
    """Collects definitions with all that they need, each after what it needs.

    Only modules of the package that ``cls`` is from, and of ours, are copied from.
    """

    def __init__(self, cls: type) -> None:
        self.packages = {cls.__module__.partition(".")[0], "kdnas", "search_spaces"}
        self.definitions: list[str] = []
        self.owners: dict[str, Any] = {}  # what each name means
        self._plain: set[str] = set()  # "import x"
        self._from: dict[str, set[str]] = {}  # "from x import names"

    def imports(self) -> str:
        """The import statements: the standard library, then torch, sorted."""
        sections = []
        for torch in (False, True):
            plain = sorted(line for line in self._plain if _is_torch(line.split()[1]) == torch)
            named = sorted(module for module in self._from if _is_torch(module) == torch)
            sections.append([*plain, *(f"from {m} import {', '.join(sorted(self._from[m]))}" for m in named)])
        return "\n\n".join("\n".join(lines) for lines in sections if lines)

    def need(self, module: ModuleType, name: str, user: str) -> None:
        """Add what ``name`` means in ``module``, for ``user``."""
        statement, alias = _find(module, name)
        if statement is None:
            raise InputError(f"{user} uses {name!r}, whose source is not at the top level of {module.__name__}")
        value = getattr(module, name)
        if name in self.owners:
            if self.owners[name] is not value:
                raise InputError(f"{user} uses two different things named {name!r}: rename one")
            return
        self.owners[name] = value
        if alias is None:
            text = _text(module, statement)
            for used in sorted(_globals_of(text)):
                self.need(module, used, name if isinstance(statement, ast.ClassDef) else user)
            self.definitions.append(text)
            return
        source = _origin(module, statement, alias)
        package = source.partition(".")[0]
        if _is_torch(package) or package in sys.stdlib_module_names:
            written = alias.name + (f" as {alias.asname}" if alias.asname else "")
            if isinstance(statement, ast.Import):
                self._plain.add(f"import {written}")
            else:
                self._from.setdefault(source, set()).add(written)
        elif package not in self.packages or isinstance(statement, ast.Import) or alias.asname:
            raise InputError(
                f"{user} uses {name!r} from {source}: a network to export may use torch, the standard "
                "library, and what its own package defines, imported as `from ... import name`"
            )
        else:
            del self.owners[name]  # claimed where it is defined
            self.need(importlib.import_module(source), name, user)


def _is_torch(module: str) -> bool:
    return module.partition(".")[0] == "torch"


def _find(module: ModuleType, name: str) -> tuple[ast.stmt | None, ast.alias | None]:
    """The top-level statement of ``module`` that binds ``name``, and the alias where it is an import."""
    for statement in ast.parse(_module_source(module)).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return statement, None
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(node, ast.Name) and node.id == name for t in targets for node in ast.walk(t)):
                return statement, None
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                if name == (alias.asname or alias.name.partition(".")[0]):
                    return statement, alias
    return None, None


def _module_source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        raise InputError(f"the source of {module.__name__} cannot be read: define networks in a module file") from None


def _origin(module: ModuleType, statement: ast.stmt, alias: ast.alias) -> str:
    """The absolute name of the module that an import statement takes from."""
    if isinstance(statement, ast.ImportFrom):
        relative = "." * statement.level + (statement.module or "")
        return importlib.util.resolve_name(relative, module.__spec__.parent if module.__spec__ else None)
    return alias.name


def _text(module: ModuleType, statement: ast.stmt) -> str:
    """The statement's lines, with its decorators and the comments right above it."""
    lines = _module_source(module).splitlines()
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(lines[first : statement.end_lineno])


def _globals_of(text: str) -> set[str]:
    """The names that a top-level statement needs from its module."""
    top = symtable.symtable(text, "<source>", "exec")
    names, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())}
    return names - set(dir(builtins))
