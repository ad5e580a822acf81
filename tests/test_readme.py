"""What the README and the examples show is run."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.model
@pytest.mark.usefixtures("default_model", "placed")
@pytest.mark.parametrize("code", BLOCKS)
def test_code_in_the_documentation_runs(code, capsys):
    exec(compile(code, "README", "exec"), {})
    said = capsys.readouterr().out
    for expected in re.findall(r"print\(.*\)  # (.+)", code):
        assert expected in said


@pytest.mark.model
@pytest.mark.usefixtures("default_model")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("single_model_rag.py", "seven years"),
        ("langchain_plugin_retriever.py", "red"),
        ("langchain_migrate.py", "one copy of the weights: True"),
        ("langchain_agent.py", "seven years"),
        ("milvus_and_qdrant.py", "Milvus The warranty"),
        ("draw_mask.py", "<svg"),
    ],
)
def test_examples_run(name, says, capsys):
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert says in capsys.readouterr().out


@pytest.mark.model
@pytest.mark.usefixtures("default_model")
def test_the_chatbot_answers_from_files_and_remembers(tmp_path, capsys):
    (tmp_path / "kettle.md").write_text("The warranty of the Zephyr kettle is seven years.")
    (tmp_path / "toaster.md").write_text("The Zephyr toaster comes in red and in grey.")
    main = runpy.run_path(str(ROOT / "examples" / "langchain_chatbot.py"))["main"]
    main([str(f) for f in tmp_path.iterdir()], ["How long is the warranty of the kettle?"])
    said = capsys.readouterr().out
    assert "seven years" in said
    assert "kettle.md]" in said


def test_the_picture_is_drawn_from_the_rule():
    draw = runpy.run_path(str(ROOT / "examples" / "draw_mask.py"))["draw"]
    assert (ROOT / "docs" / "attention-mask.svg").read_text() == draw()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readmes_commands_are_the_ones_ci_runs():
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    assert '-e ".[dev]"' in readme
    assert '-e ".[dev]"' in script
    assert "-m pytest" in readme
    assert "-m pytest" in script
