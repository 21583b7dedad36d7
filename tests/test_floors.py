"""The floors of the house: a room of kdnas imports only from floors below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kdnas", "search_spaces", "teachers")

# Ground first; a room imports from floors below it, or from itself. `errors` is the ground under all.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("config", "run"),
    ("ops", "loss", "channel", "data", "device"),
    ("space", "cost", "knowledge", "codec"),
    ("link", "search"),
    ("evaluate", "export"),
    ("distill", "zoo"),
    ("tune", "tailor", "plot"),  # plot draws from JSON alone; the pipeline calls it
    ("pipeline", "testing"),
    ("cli",),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
# Users write these beside ours, so they may only lean on what stands under the search and the distillation.
PLUGIN_CEILING = FLOOR["space"]


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in `source`, lazy ones too, relative ones resolved.

    `from a import b` counts as `a.b`, because `b` may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import kdnas.run.files
from kdnas import config
def lazy():
    from . import cat
    from ..run.files import x
"""
    found = [name for _, name in imports_of(source, "kdnas.codec", is_package=True)]
    assert found == ["kdnas.run.files", "kdnas.config", "kdnas.codec.cat", "kdnas.run.files.x"]
    found = [name for _, name in imports_of("from .power import p", "kdnas.channel.noise", is_package=False)]
    assert found == ["kdnas.channel.power.p"]


def forbidden(path: Path, name: str) -> bool:
    """Whether the module at `path` (relative to the checkout) may not import `name`."""
    package, *rest = name.split(".")
    if path.parts[0] != "kdnas":
        other = package in PACKAGES and package not in (path.parts[0], "kdnas")
        return other or (package == "kdnas" and FLOOR.get(rest[0] if rest else "", 99) > PLUGIN_CEILING)
    if package in ("search_spaces", "teachers"):
        return True  # these are found by entry point, ours like anyone's
    if package != "kdnas" or path == Path("kdnas/__init__.py"):
        return False
    room = path.parts[1].removesuffix(".py")
    if not rest:
        return True  # the top of the house stands above every room
    return rest[0] not in (room, "__version__") and FLOOR.get(rest[0], 99) >= FLOOR[room]


def modules() -> list[Path]:
    """Every module of the three packages, relative to the checkout; published architectures are data."""
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in files if path.parts[:2] != ("kdnas", "zoo") or len(path.parts) == 3)


def test_a_room_imports_only_from_floors_below() -> None:
    assert forbidden(Path("kdnas/channel/noise.py"), "kdnas.link.Link")
    assert forbidden(Path("kdnas/link.py"), "kdnas.search")  # the same floor
    assert forbidden(Path("teachers/resnet.py"), "kdnas.pipeline")
    assert not forbidden(Path("kdnas/link.py"), "kdnas.channel.noise")
    broken = [
        f"{path}:{line} imports {name}"
        for path in modules()
        for line, name in imports_of(
            (ROOT / path).read_text(),
            ".".join(path.with_suffix("").parts).removesuffix(".__init__"),
            is_package=path.name == "__init__.py",
        )
        if forbidden(path, name)
    ]
    assert broken == []


def test_every_room_has_its_floor() -> None:
    rooms = {path.parts[1].removesuffix(".py") for path in modules() if path.parts[0] == "kdnas"}
    assert rooms - set(FLOOR) == {"__init__"}
