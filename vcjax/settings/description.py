"""Description of every setting, read from the source of `defaults`."""

import ast
import inspect
import io
import tokenize

from vcjax.settings import defaults

_COLUMN = 44  # of the comments


def describe() -> str:
    """Return one line per setting: its flag, its default (the paper's value) and its comment."""
    lines = ["Settings, with the paper's values:"]
    comments = _comments()
    for key, value in defaults.flat(defaults.paper()):
        default = value if isinstance(value, str) else repr(value).replace(" ", "")
        flag = f"  --config.{key}={default}"
        lines.append(f"{flag:{_COLUMN}} {comments.get(key, '')}".rstrip())
    return "\n".join(lines)


def _comments() -> dict[str, str]:
    """Return {setting: comment}, following the calls in `paper` to the function of each section."""
    source = inspect.getsource(defaults)
    at_line, alone = _comments_by_line(source)
    functions = {f.name: f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}

    def of_function(name: str) -> dict[str, str]:
        comments: dict[str, str] = {}
        for node in functions[name].body:
            if not isinstance(node, ast.Assign):
                continue
            key = ast.unparse(node.targets[0]).partition(".")[2]
            called = node.value.func if isinstance(node.value, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in functions:
                section = of_function(called.id)
                comments |= {f"{key}.{k}".lstrip("."): v for k, v in section.items()}
            elif key:
                last = node.end_lineno or node.lineno
                parts = [at_line[i] for i in range(node.lineno, last + 1) if i in at_line]
                while (last := last + 1) in alone:
                    parts.append(at_line[last])
                comments[key] = " ".join(parts)
        return comments

    return of_function("paper")


def _comments_by_line(source: str) -> tuple[dict[int, str], set[int]]:
    """Return the comments of `source` by line, and the lines that have nothing but a comment."""
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return comments, alone
