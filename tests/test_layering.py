"""The direction of imports, read from the source so that imports within functions count too.

python tests/test_layering.py [CHECKOUT] prints the rooms (folders, and files loose in `vcjax/`),
the arrows between them, floors (the longest chain of rooms), circles and loose modules.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# from the top; a room imports rooms below its own floor, and those with a * also rooms beside them
RULE = (
    "__main__ __init__ main",
    "pipeline pretrained interop embed doctor bench commands *",
    "training evaluation ingest",
    "inference objectives idt",
    "data clustering fisher models",
    "settings runtime",
)
Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """File of each module of ours by its dotted name, packages as PACKAGE.__init__."""
    files = [f for package in ("vcjax", "fisher") for f in (root / package).rglob("*.py")]
    found = {".".join(f.relative_to(root).with_suffix("").parts): f for f in files}
    return {name: f for name, f in found.items() if not name.startswith("vcjax.configs.")}


def imports(root: Path) -> Graph:
    """The modules of ours that each module imports, wherever it does so."""
    files = modules(root)

    def targets(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    is_module = whole in files or f"{whole}.__init__" in files
                    yield whole if is_module else str(node.module)

    graph = {}
    for name, file in files.items():
        wanted = targets(ast.parse(file.read_text("utf-8")))
        found = {t if t in files else f"{t}.__init__" for t in wanted}
        graph[name] = (found & files.keys()) - {name}
    return graph


def room(module: str) -> str:
    """The folder in `vcjax/`, the module loose there, or `fisher`."""
    package, *rest = module.split(".")
    return rest[0] if package == "vcjax" else package


def between_rooms(graph: Graph) -> Graph:
    """The rooms that each room imports."""
    found: Graph = defaultdict(set)
    for module, targets in graph.items():
        found[room(module)] |= {room(target) for target in targets} - {room(module)}
    return dict(found)


def reached(graph: Graph, start: str) -> set[str]:
    """All that `start` imports, and what that imports."""
    found: set[str] = set()
    todo = set(graph[start])
    while todo:
        found |= todo
        todo = set().union(*(graph[name] for name in todo)) - found
    return found


def circles(graph: Graph) -> set[frozenset[str]]:
    """Groups whose members all reach each other."""
    below = {name: reached(graph, name) for name in graph}
    rings = {frozenset(n for n in below[name] if name in below[n]) for name in graph}
    return {ring for ring in rings if ring}


def num_floors(graph: Graph) -> int:
    """Length of the longest chain; a circle is one link."""
    ring = {name: found for found in circles(graph) for name in found}
    below = {name: reached(graph, name) - ring.get(name, frozenset()) for name in graph}
    heights: dict[str, int] = {}
    for name in sorted(graph, key=lambda name: len(below[name])):
        heights[name] = 1 + max((heights[n] for n in below[name]), default=0)
    return max(heights.values())


def test_imports_go_down():
    floors = {name: i for i, names in enumerate(RULE) for name in names.split()}
    for name, targets in between_rooms(imports(ROOT)).items():
        for target in targets:
            beside = floors[name] == floors[target] and "*" in RULE[floors[name]]
            assert beside or floors[name] < floors[target], f"{name} imports {target}"


def test_the_ground_stands_by_itself():
    rooms = between_rooms(imports(ROOT))
    assert not rooms["runtime"] and not rooms["settings"]
    assert not rooms["fisher"]  # which knows nothing of vcjax


def test_there_are_no_circles():
    graph = imports(ROOT)
    assert not circles(graph) and not circles(between_rooms(graph))


def test_the_house_stays_small():
    rooms = between_rooms(imports(ROOT))
    assert len(rooms) <= 24 and num_floors(rooms) <= 8
    assert len(list((ROOT / "vcjax").glob("*.py"))) <= 8


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    graph = imports(root)
    rooms = between_rooms(graph)
    print("rooms", len(rooms), "arrows", sum(map(len, rooms.values())), end=" ")
    print("floors", num_floors(rooms), "loose", len(list((root / "vcjax").glob("*.py"))))
    for name, targets in sorted(rooms.items()):
        print(f"  {name}: {' '.join(sorted(targets))}")
    for ring in [*circles(graph), *circles(rooms)]:
        print("circle:", *sorted(ring))
