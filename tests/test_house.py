"""The house stands: nothing reads another file's private things, runs in a circle or overgrows."""

import subprocess
import sys
from textwrap import dedent

import house
import pytest

# Each check, on the project itself


@pytest.fixture(scope="module")
def sources():
    return house.read_sources()


def none(offences):
    assert not offences, "\n".join([f"{len(offences)}, expected none:", *offences])


def test_every_package_is_read(sources):
    assert {s.module for s in sources} > {
        "gem_rag",
        "langchain_gem_rag",
        "llama_index_gem_rag",
        "gem_rag_train",
        "haystack_integrations.components.rankers.gem_rag",
        "llm_gem_rag",
    }


IMPORTED = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    try:
        importlib.import_module(path.stem)
    except ModuleNotFoundError as error:
        if error.name.startswith(("gem_rag", "langchain_gem_rag", "llama_index_gem_rag")):
            raise
        print(f"{path.name}: {error}")  # a peer that this benchmark alone compares with
"""


def test_every_benchmark_finds_what_it_imports():
    folder = house.ROOT / "benchmarks"
    command = [sys.executable, "-c", IMPORTED, folder]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < len(list(folder.glob("*.py"))) / 2


def test_no_file_reads_anothers_private_names(sources):
    none(house.private_reads(sources))


def test_nothing_is_dispatched_by_getattr(sources):
    none(house.dispatches(sources))


def test_no_circle_is_executed(sources):
    none(house.circles(sources))


def test_no_circle_with_what_only_type_checkers_follow(sources):
    none(house.circles(sources, typing=True))


def test_no_file_is_too_long():
    none(house.long_files())


def test_no_function_is_too_long(sources):
    none(house.long_functions(sources))


def test_no_page_is_too_long():
    none(house.long_pages())


# Each check finds what it should: on source trees of a few lines


@pytest.fixture
def tree(tmp_path):
    """A checkout with the packages `app` and `extras/plug`, written from path -> text."""

    def write(**files):
        (tmp_path / "pyproject.toml").write_text(
            '[tool.hatch.build.targets.wheel]\npackages = ["app", "extras/plug"]\n'
        )
        for name, text in {"app/__init__": "", "extras/plug/__init__": "", **files}.items():
            path = tmp_path / (name if "." in name else f"{name}.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return tmp_path

    return write


def found(check, root, **options):
    """Where the offences are, as `path:line`."""
    return [o.split(": ")[0] for o in check(house.read_sources(root), **options)]


OWNER = """\
    class Reader:
        limit = 3
        def __init__(self):
            self._weights = 1
            self._later: int
        def _read(self): ...
        def read(self): return self._read()
"""


def test_private_a_strangers_attribute(tree):
    root = tree(
        **{
            "app/reader": OWNER,
            "extras/plug/use": "def f(model):\n    model._read()\n    return model._weights\n",
        }
    )
    where = ["extras/plug/use.py:2", "extras/plug/use.py:3"]
    assert found(house.private_reads, root) == where
    assert (
        "model._read is defined in app/reader.py"
        in house.private_reads(house.read_sources(root))[0]
    )


def test_private_through_an_attribute_of_self(tree):
    keeper = """\
        class Keeper:
            def __init__(self, model): self._model = model
            def keep(self): return self._model._read()
    """
    root = tree(**{"app/reader": OWNER, "app/keeper": keeper})
    assert found(house.private_reads, root) == ["app/keeper.py:3"]


def test_private_by_inheritance_across_files(tree):
    embeds = """\
        from app.reader import Reader as Base
        class Middle(Base):
            def _middle(self): ...
        class Embeds(Middle):
            def embed(self):
                self._middle()
                return self._read() + type(self)._weights
            @classmethod
            def new(cls): return cls._read
            def again(self): return super()._read()
    """
    root = tree(**{"app/reader": OWNER, "app/embeds": embeds})
    lines = [int(where.split(":")[1]) for where in found(house.private_reads, root)]
    assert lines == [7, 7, 9, 10]


def test_private_between_mixins_that_meet_in_a_subclass(tree):
    root = tree(
        **{
            "app/reader": OWNER,
            "app/ranks": "class Ranks:\n    def rank(self): return self._read()\n",
            "app/model": """\
                from app.ranks import Ranks
                from app.reader import Reader
                class Model(Ranks, Reader): ...
            """,
        }
    )
    assert found(house.private_reads, root) == ["app/ranks.py:2"]


def test_private_names_imported(tree):
    root = tree(
        **{
            "app/a": "_limit = 3\ndef _help(): ...\n",
            "app/b": "from app.a import _limit\ndef f():\n    from .a import _help\n",
            "app/c": "from torch import _C\nimport app.a as a\na._help()\n",
        }
    )
    assert sorted(found(house.private_reads, root)) == [
        "app/b.py:1",
        "app/b.py:3",
        "app/c.py:3",
    ]


def test_private_names_that_are_no_offence(tree):
    chat = """\
        from typing import NamedTuple
        from somewhere import BaseChat
        class Chat(BaseChat):
            def _generate(self): return super()._generate()
            def _llm_type(self): return self._from_the_framework
        class Pair(NamedTuple):
            left: int
        def f(config, module, other: Chat):
            config._attn_implementation = "eager"
            Pair(1)._replace(left=2)
            other._generate()
            return module._modules, other.__class__, Chat.__name__
    """
    llm = "class Llm(Unknown):\n    def _generate(self): return super()._generate()\n"
    assert found(house.private_reads, tree(**{"app/chat": chat, "app/llm": llm})) == []


def test_private_names_are_defined_in_many_ways(tree):
    ways = """\
        from dataclasses import dataclass
        _level, _other = 1, 2
        @dataclass(frozen=True)
        class A:
            _field: int
            _attribute = 1
            __slots__ = ("_slot",)
            def __post_init__(self): object.__setattr__(self, "_set", 3)
            @property
            def _property(self): ...
        def f(a):
            return a._field, a._attribute, a._slot, a._set, a._property, a._level, a._other
    """
    root = tree(**{"app/ways": ways})
    assert found(house.private_reads, root) == []
    (root / "app/use.py").write_text(ways[ways.index("        def f") :].replace("        ", "", 1))
    assert len(house.private_reads(house.read_sources(root))) == 7


def test_dispatch(tree):
    text = """\
        class A:
            def submit(self): ...
            def _run(self): ...
            def all(self, name):
                getattr(self, "submit")
                getattr(self, name)
                getattr(type(self), f"_{name}")
                getattr(self.engine, "submit")
                getattr(self.engine, "_run", None)
        def fine(stream, config):
            getattr(stream, "submit", None)
            getattr(config, "rope_parameters", None)
            getattr(config, "hidden_size")
    """
    root = tree(**{"app/a": text})
    assert found(house.dispatches, root) == [f"app/a.py:{n}" for n in (5, 6, 7, 8, 9)]


def test_circle_of_two_files(tree):
    root = tree(**{"app/a": "import app.b\n", "app/b": "\nfrom . import a\n"})
    (circle,) = house.circles(house.read_sources(root))
    assert circle.startswith("2 files")
    assert "app/a.py:1: imports app.b" in circle
    assert "app/b.py:2: imports app.a" in circle


def test_circle_through_the_own_packages_init(tree):
    root = tree(
        **{
            "app/room/__init__": "from app.room.face import Face\n",
            "app/room/face": "from app.room.part import Part\n",
            "app/room/part": "from app.room import Face\n",
        }
    )
    (circle,) = house.circles(house.read_sources(root))
    assert circle.startswith("3 files")


def test_circle_through_another_rooms_init(tree):
    """`low.part` itself imports nothing, but loading it loads `low/__init__`, which climbs."""
    root = tree(
        **{
            "app/low/__init__": "from app.low.face import Face\n",
            "app/low/face": "from app.high import word\n",
            "app/low/part": "",
            "app/high": "from app.low.part import Part\n",
        }
    )
    (circle,) = house.circles(house.read_sources(root))
    assert circle.startswith("3 files")
    assert "app/high.py:1: imports app.low" in circle


def test_a_package_that_shows_its_files_is_no_circle(tree):
    root = tree(
        **{
            "app/room/__init__": "from app.room import tools\nfrom app.room.face import Face\n",
            "app/room/face": "from app.room.part import Part\nfrom app.room import tools\n",
            "app/room/part": "import app.room.tools\n",
            "app/room/tools": "",
            "app/user": "from app.room import Face\n",
        }
    )
    assert house.circles(house.read_sources(root), typing=True) == []


def test_circle_only_type_checkers_follow(tree):
    root = tree(
        **{
            "app/a": "from app.b import B\n",
            "app/b": """\
                from typing import TYPE_CHECKING
                if TYPE_CHECKING:
                    from app.a import A
            """,
        }
    )
    sources = house.read_sources(root)
    assert house.circles(sources) == []
    assert "app/b.py:3: imports app.a" in house.circles(sources, typing=True)[0]


def test_imports_in_functions_are_no_circle(tree):
    late = "def f():\n    from app.a import A\n"
    root = tree(**{"app/a": "from app.b import B\n", "app/b": late})
    assert house.circles(house.read_sources(root), typing=True) == []


def test_imports_in_try_and_class_bodies_are_executed(tree):
    root = tree(
        **{
            "app/a": "try:\n    import app.b\nexcept ImportError: ...\n",
            "app/b": "class B:\n    from app.a import A\n",
        }
    )
    assert len(house.circles(house.read_sources(root))) == 1


LAZY = """\
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        from app.model import Model
    def __getattr__(name): ...
"""


def test_the_lazy_door_is_no_circle_and_no_hiding_place(tree):
    root = tree(
        **{"app/__init__": LAZY, "app/model": "from app.low import B\n", "app/low": "B = 1\n"}
    )
    assert house.circles(house.read_sources(root), typing=True) == []
    (root / "app/low.py").write_text("from app import Model\n")
    (circle,) = house.circles(house.read_sources(root))
    assert "app/low.py:1: imports app.model" in circle


def test_long_files_and_pages(tree):
    root = tree(
        **{
            "app/long": "x = 1\n" * 401,
            "app/page.html": "<p>\n" * 401,
            "app/data.json": "1\n" * 500,
            "app/fits": "x = 1\n" * 400,
            "docs/long.md": "a\n" * 401,
            "docs/deep/fits.md": "a\n" * 400,
        }
    )
    assert sorted(house.long_files(root)) == [
        "app/long.py:1: 401 lines",
        "app/page.html:1: 401 lines",
    ]
    assert house.long_pages(root) == ["docs/long.md:1: 401 lines"]


def test_long_functions_without_their_docstrings(tree):
    body = "    x = 1\n"
    docstring = '    """One.\n' + "    more\n" * 20 + '    """\n'
    root = tree(
        **{"app/a": "def fits():\n" + docstring + body * 59 + "async def long():\n" + body * 60}
    )
    assert house.long_functions(house.read_sources(root)) == ["app/a.py:83: long has 61 lines"]
