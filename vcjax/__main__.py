"""The command `vcjax`: `vcjax NAME` is short for `python -m vcjax.NAME`.

vcjax explore VIDEOS --out runs/mine
vcjax main --config=la_idt.py:rendered --workdir=runs/rendered
vcjax idt extract --manifest VIDEOS --out DIR
"""

import ast
import runpy
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent


def main() -> None:
    """Run the module named by the first argument with the remaining arguments."""
    modules = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        listed = "\n".join(f"  {command:17}{first}" for command, (_, first) in modules.items())
        print(f"usage: vcjax COMMAND [--help] ...\n\n{listed}")
        return
    if name not in modules:
        sys.exit(f"vcjax: no command {name!r}; use one of {', '.join(modules)}")
    del sys.argv[1]
    runpy.run_module(modules[name][0], run_name="__main__", alter_sys=True)


def commands() -> dict[str, tuple[str, str]]:
    """Return {command: (module, first line of its docstring)} for every runnable module."""
    modules = {"fisher": ("fisher", _PACKAGE.parent / "fisher" / "__main__.py")}
    for path in _PACKAGE.glob("commands/[!_]*.py"):
        modules[path.stem.replace("_", "-")] = (f"vcjax.commands.{path.stem}", path)
    for path in _PACKAGE.glob("*.py"):
        if not path.stem.startswith("_") and '__name__ == "__main__"' in path.read_text("utf-8"):
            modules[path.stem] = (f"vcjax.{path.stem}", path)
    for path in _PACKAGE.glob("*/__main__.py"):
        modules[path.parent.name] = (f"vcjax.{path.parent.name}", path)
    return {name: (module, _first_line(path)) for name, (module, path) in sorted(modules.items())}


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
