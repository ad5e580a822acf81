"""What linters do not see: private reads across files, dispatch by name, circles, and size.

Each check returns its offences as ``file:line: what``; ``python tests/house.py`` lists them all.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_LINES, MAX_FUNCTION_LINES = 400, 60
SUFFIXES = {".py", ".jinja", ".html", ".css", ".js"}
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """One Python file of a package."""

    path: str  # from the checkout's root
    module: str  # dotted; a package's is its ``__init__``
    is_package: bool
    tree: ast.Module


def package_folders(root: Path = ROOT) -> list[Path]:
    """The packages of the wheel, as pyproject.toml names them, and of the distributions."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    placed = sorted(root.glob("integrations/distributions/*/*/"))
    return [root / package for package in packages] + placed


def read_sources(root: Path = ROOT) -> list[Source]:
    """Every Python file of the packages, parsed."""
    sources = []
    for folder in package_folders(root):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder.parent).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            path = file.relative_to(root).as_posix()
            sources.append(Source(path, module, is_package, ast.parse(file.read_text(), path)))
    return sources


# -- imports ------------------------------------------------------------------------------------


def origin(node: ast.ImportFrom, source: Source) -> str:
    """The module that ``from ... import`` names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    parts = parts[: len(parts) - node.level + source.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def module_level_imports(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Imports outside functions, and whether only a type checker follows them."""
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, typing = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += [(child, True) for child in node.body]
            todo += [(child, typing) for child in node.orelse]
        elif not isinstance(node, (*FUNCTIONS, ast.Lambda)):
            todo += [(child, typing) for child in ast.iter_child_nodes(node)]


def lazy_names(source: Source) -> dict[str, str]:
    """What a package's ``__getattr__`` imports when asked: name -> module, from TYPE_CHECKING."""
    if not any(isinstance(n, FUNCTIONS) and n.name == "__getattr__" for n in source.tree.body):
        return {}
    return {
        alias.asname or alias.name: origin(node, source)
        for node, typing in module_level_imports(source.tree)
        if typing and isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def lineage(module: str) -> list[str]:
    """The module and the packages around it: ``a.b.c`` -> ``a.b.c``, ``a.b``, ``a``."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def loaded_by(
    node: ast.Import | ast.ImportFrom, source: Source, known: Mapping[str, Source]
) -> set[str]:
    """The project's files that an import statement executes, packages' ``__init__`` among them.

    The packages around the importing file run before it does, so they count only if it asks them
    for a name of theirs.
    """
    named: set[str] = set()
    if isinstance(node, ast.Import):
        named |= {alias.name for alias in node.names}
    else:
        base = origin(node, source)
        lazy = lazy_names(known[base]) if base in known else {}
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            named |= {inner} if inner in known else {base, lazy.get(alias.name, base)}
    around = {package for module in named for package in lineage(module)[1:]}
    loaded = named | (around - set(lineage(source.module)))
    return {module for module in loaded if module in known} - {source.module}


def import_graph(sources: list[Source], *, typing: bool) -> dict[str, dict[str, int]]:
    """Module -> the modules that importing it executes -> line; with TYPE_CHECKING's if asked.

    What a lazy package (``__getattr__``) imports for type checkers is left out: those who ask it
    for a name are counted as importing that name's home.
    """
    known = {source.module: source for source in sources}
    graph: dict[str, dict[str, int]] = {}
    for source in sources:
        edges = graph.setdefault(source.module, {})
        with_typing = typing and not lazy_names(source)
        for node, only_typing in module_level_imports(source.tree):
            if with_typing or not only_typing:
                for module in loaded_by(node, source, known):
                    edges[module] = min(node.lineno, edges.get(module, node.lineno))
    return graph


def reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """What can be reached from a node over at least one edge."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += graph[node]
    return seen


def circles(sources: list[Source], *, typing: bool = False) -> list[str]:
    """Groups of files that import each other, packages' re-exports followed."""
    graph = import_graph(sources, typing=typing)
    paths = {source.module: source.path for source in sources}
    reach = {module: reachable(graph, module) for module in graph}
    groups = {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in graph
        if module in reach[module]
    }
    found = []
    for group in sorted(groups, key=sorted):
        arrows = [
            f"    {paths[module]}:{graph[module][target]}: imports {target}"
            for module in sorted(group)
            for target in sorted(group & graph[module].keys())
        ]
        found.append("\n".join([f"{len(group)} files in a circle:", *arrows]))
    return found


# -- private names ------------------------------------------------------------------------------


@dataclass(eq=False)
class Class:
    """A class: what it defines and which classes it stands on."""

    path: str
    node: ast.ClassDef
    defines: set[str]
    bases: list[Class] = field(default_factory=list)
    subclasses: list[Class] = field(default_factory=list)

    def ancestors(self) -> list[Class]:
        """The classes this one inherits from."""
        return _closure(self.bases, "bases")

    def family(self) -> list[Class]:
        """The classes that an object of this class may be made of: mixins meet in a subclass."""
        members = [self, *_closure(self.subclasses, "subclasses")]
        return members + [base for member in members for base in member.ancestors()]


def _closure(start: list[Class], side: str) -> list[Class]:
    members = list(start)
    for member in members:
        members += [c for c in vars(member)[side] if c not in members]
    return members


def is_private(name: str) -> bool:
    """One underscore in front; dunders and `_` are not private."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_own(node: ast.AST) -> bool:
    """Whether an expression is the object itself or its class."""
    return ast.unparse(node) in {"self", "cls", "type(self)", "self.__class__"}


def bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that statements of a class or module define."""
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from bound(n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt))


def defined_by(node: ast.ClassDef) -> set[str]:
    """Methods, class attributes, fields, slots, and what methods assign to ``self`` or ``cls``."""
    names: set[object] = set(bound(node.body))
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            names |= {inner.attr} if is_own(inner.value) else set()
        elif isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith("setattr__"):
            names |= {a.value for a in inner.args if isinstance(a, ast.Constant)}
        elif isinstance(inner, ast.Assign) and ast.unparse(inner.targets[0]) == "__slots__":
            names |= {c.value for c in ast.walk(inner.value) if isinstance(c, ast.Constant)}
    return {name for name in names if isinstance(name, str)}


def read_classes(sources: list[Source]) -> dict[ast.ClassDef, Class]:
    """The project's classes, related through their bases by name (imports followed)."""
    classes = {
        node: Class(source.path, node, defined_by(node))
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    }
    by_name = defaultdict(list)
    for each in classes.values():
        by_name[each.node.name].append(each)
    modules = {source.module for source in sources}
    for source in sources:
        imported = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ImportFrom) and origin(node, source) in modules
            for alias in node.names
        }
        for each in [c for c in classes.values() if c.path == source.path]:
            for base in each.node.bases:
                name = ast.unparse(base).split("[")[0].split(".")[-1]
                here = [c for c in by_name[name] if c.path == source.path]
                for other in here or by_name[imported.get(name, "")]:
                    each.bases.append(other)
                    other.subclasses.append(each)
    return classes


def private_attributes(
    node: ast.AST, owner: ast.ClassDef | None = None
) -> Iterator[tuple[ast.Attribute, ast.ClassDef | None]]:
    """Every ``x._name`` with the class it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Attribute) and is_private(child.attr):
            yield child, owner
        yield from private_attributes(child, child if isinstance(child, ast.ClassDef) else owner)


def private_reads(sources: list[Source]) -> list[str]:
    """``x._name`` and ``from y import _name`` where another file of the project owns the name.

    ``self._name`` offends if only a relative of the class in another file defines it. Names that
    the project defines nowhere are a third party's, and pass.
    """
    classes = read_classes(sources)
    defined = {source.path: set(bound(source.tree.body)) for source in sources}
    for each in classes.values():
        defined[each.path] |= each.defines
    homes = defaultdict(list)
    for path, names in defined.items():
        for name in names:
            homes[name].append(path)

    found = []
    for source in sources:
        for node, owner in private_attributes(source.tree):
            receiver = ast.unparse(node.value)
            if owner and receiver.startswith("super("):
                owners = [c.path for c in classes[owner].ancestors() if node.attr in c.defines]
            elif owner and is_own(node.value):
                owners = [c.path for c in classes[owner].family() if node.attr in c.defines]
            else:
                owners = homes[node.attr]
            if owners and source.path not in owners and node.attr not in NAMED_TUPLE:
                where = f"{source.path}:{node.lineno}"
                owned_by = ", ".join(dict.fromkeys(owners))
                found.append(f"{where}: {receiver}.{node.attr} is defined in {owned_by}")
    return found + private_imports(sources)


def private_imports(sources: list[Source]) -> list[str]:
    """``from y import _name``, y being another file of the project."""
    modules = {source.module for source in sources}
    return [
        f"{source.path}:{node.lineno}: imports {alias.name} from {origin(node, source)}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and origin(node, source) in modules
        for alias in node.names
        if is_private(alias.name) and f"{origin(node, source)}.{alias.name}" not in modules
    ]


# -- dispatch by name ---------------------------------------------------------------------------


def dispatches(sources: list[Source]) -> list[str]:
    """``getattr`` on ``self`` or ``cls``, and on anything for a method that the project defines.

    ``getattr(other, "public_name", default)`` asks a foreign object for something optional: fine.
    """
    methods = {
        method.name
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, FUNCTIONS)
    }
    found = []
    for source in sources:
        calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
        for node in sorted(calls, key=lambda call: call.lineno):
            if ast.unparse(node.func) == "getattr":
                wanted = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
                optional = len(node.args) > 2 and not is_private(str(wanted))
                if is_own(node.args[0]) or (wanted in methods and not optional):
                    found.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
    return found


# -- size ---------------------------------------------------------------------------------------


def long_files(root: Path = ROOT) -> list[str]:
    """Product files (Python, templates, pages) that are asking to be two."""
    files = [file for folder in package_folders(root) for file in sorted(folder.rglob("*"))]
    return _too_long((file for file in files if file.suffix in SUFFIXES), root)


def long_pages(root: Path = ROOT) -> list[str]:
    """Pages of the documentation that are asking to be two."""
    return _too_long(sorted((root / "docs").rglob("*.md")), root)


def _too_long(files: Iterable[Path], root: Path) -> list[str]:
    counts = {f.relative_to(root).as_posix(): len(f.read_text().splitlines()) for f in files}
    return [f"{path}:1: {count} lines" for path, count in counts.items() if count > MAX_LINES]


def long_functions(sources: list[Source]) -> list[str]:
    """Functions that do not fit on a screen, their docstrings not counted."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, FUNCTIONS):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    found.append(f"{source.path}:{node.lineno}: {node.name} has {lines} lines")
    return found


def all_checks(root: Path = ROOT) -> dict[str, list[str]]:
    """What is wrong with a checkout, by kind."""
    sources = read_sources(root)
    return {
        "private names read across files": private_reads(sources),
        "dispatch by getattr": dispatches(sources),
        "circles of imports that are executed": circles(sources),
        "circles with what only type checkers follow": circles(sources, typing=True),
        f"files over {MAX_LINES} lines": long_files(root),
        f"functions over {MAX_FUNCTION_LINES} lines": long_functions(sources),
        f"pages over {MAX_LINES} lines": long_pages(root),
    }


if __name__ == "__main__":
    wrong = all_checks()
    for kind, offences in wrong.items():
        print("\n".join([f"{kind}: {len(offences)}", *(f"  {o}" for o in offences)]))
    sys.exit(any(wrong.values()))
