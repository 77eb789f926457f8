# SPDX-License-Identifier: Apache-2.0
"""What the package's docstrings promise: everything public has one; where arrays come back it says their
shapes, and where the daemon is asked what it raises. Either may refer to another docstring instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ablate"
ARRAYS = re.compile(r"\b(Array|ndarray)\b")
REFERENCE = re.compile(r":(meth|func|class|attr|data):`|\b[Aa]s (in )?(AutoCircuit|TransformerLens|there)")
SHAPE = re.compile(r"\[[^\]]*\]|shaped? |shapes|one number|\bvector|\bscalar")
SAYS = re.compile(r"[Rr]aises?\b|[Tt]he part of :class:`")
ASKS = {"_call", "_pages", "call"}


def public(tree: ast.AST, inside: str = "", errors: str = "") -> Iterator[tuple[str, ast.AST, str]]:
    """(name, node, what its class says of errors) of all public functions, classes and methods; not what
    is inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if "overload" in decorators or any(name.endswith(".setter") for name in decorators):
                continue
            yield inside + node.name, node, errors
            if isinstance(node, ast.ClassDef):
                text = ast.get_docstring(node) or ""
                yield from public(node, f"{inside}{node.name}.", text if SAYS.search(text) else "")
        elif isinstance(node, (ast.If, ast.Try)):
            yield from public(node, inside, errors)


def asks(node: ast.AST) -> bool:
    """Whether it makes a call of the protocol itself."""
    return any(
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Attribute)
        and part.func.attr in ASKS
        and any(isinstance(a, ast.Constant) and str(a.value)[:1].isupper() for a in part.args[:1])
        for part in ast.walk(node)
    )


def complaints(source: str, is_private: bool = False) -> list[str]:
    """What is missing in a file; of a private one functions outside of classes are nobody's."""
    found = []
    for name, node, errors in public(ast.parse(source)):
        assert isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        text = ast.get_docstring(node) or ""
        if is_private and "." not in name and not isinstance(node, ast.ClassDef):
            continue
        if not text:
            found.append(f"{name} has no docstring")
        elif not isinstance(node, ast.ClassDef):
            returns = ast.unparse(node.returns) if node.returns else ""
            if ARRAYS.search(returns) and not (SHAPE.search(text) or REFERENCE.search(text)):
                found.append(f"{name} returns {returns} and says no shape")
            if asks(node) and not (errors or SAYS.search(text) or REFERENCE.search(text)):
                found.append(f"{name} asks the daemon and says not what it raises")
    return found


def test_everything_public_says_what_it_gives_and_raises() -> None:
    found = [
        f"{path.relative_to(SOURCE)}: {complaint}"
        for path in sorted(SOURCE.rglob("*.py"))
        if not path.stem.endswith("_pb2")
        for complaint in complaints(path.read_text(), path.stem.startswith("_"))
    ]
    assert not found, "\n".join(found)


def test_what_is_missing_would_be_found() -> None:
    source = '''
class Thing:
    """A thing."""

    def bare(self): ...

    def array(self) -> Array:
        """An array."""

    def shaped(self) -> Array:
        """float32 ``[rows]``."""

    def asks(self):
        """The daemon's answer."""
        return self.client._call("GetThing", request)

    def refers(self):
        """As :meth:`asks`."""
        return self.client._call("GetThing", request)

    def _private(self): ...
'''
    assert complaints(source) == [
        "Thing.bare has no docstring",
        "Thing.array returns Array and says no shape",
        "Thing.asks asks the daemon and says not what it raises",
    ]
