"""Generator of the JSON schemas, the key tables, the command reference, the README's plan and the list of promises.

`make docs` runs it; with `--check` it writes nothing and lists the stale files. Its sources are the models in
`curriculum/config`, the command line itself, and the `promise` markers of the tests.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from curriculum.cli.app import app
from curriculum.cli.view.plan import plan_view
from curriculum.compiler.lineage import Setting
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.summary import summarise
from curriculum.config import ROOT_KEYS, json_schema
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.config.stages import StageEntry

ROOT = Path(__file__).resolve().parents[1]
MADE = "<!-- Made by `make docs`; edit the descriptions in the code. -->"
PLAN_WIDTH = 112
YAML_FILES = {
    "stages": "stages/NAME.yaml",
    "mixtures": "mixtures/NAME.yaml",
    "studies": "studies/NAME.yaml",
    "sources": "sources.yaml",
    "sizes": "sizes.yaml",
    "machines": "machines.yaml",
}
AS_IN = re.compile(r"; as in (`.*`)\.$")


def files() -> dict[str, str]:
    """The content of every generated file, by its path in the repository."""
    made = dict(json_schema.texts())
    for name in ("stages", "mixtures", "studies"):
        made[f"{name}/README.md"] = filled(f"{name}/README.md", "keys", f"{MADE}\n\n{tables(name)}")
    files_of_a_project = "\n\n".join(f"## {path}\n\n{tables(name)}" for name, path in YAML_FILES.items())
    made["docs/reference/yaml.md"] = f"# The YAML files of a project\n\n{MADE}\n\n{files_of_a_project}\n"
    plan = full_plan()
    made["docs/rehearsal.md"] = filled("docs/rehearsal.md", "plan", f"```\n{plan}\n```")
    made["README.md"] = filled("README.md", "plan", f"```\n{shortened(plan)}\n```")
    refusal = (ROOT / "tests/messages/unknown-source.txt").read_text().strip()
    made["docs/README.md"] = filled("docs/README.md", "refusal", f"```\n{refusal}\n```")
    made["docs/promises.md"] = filled("docs/promises.md", "promises", promises())
    made["docs/reference/cli.md"] = f"# The commands\n\n{MADE}\n\n{commands()}\n"
    return made


def filled(path: str, name: str, text: str) -> str:
    """The page `path` with `text` between its markers `name:begin` and `name:end`."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = (ROOT / path).read_text().split(begin)
    return f"{before}{begin}{text}\n{end}{rest.split(end)[1]}"


# --- the plan that README and docs show ----------------------------------------------------------------------


def full_plan() -> str:
    """What `curriculum plan` prints of the paper's curriculum on the paper's machine, where no text is prepared."""
    name, machine = "v1.1-math-code", "a100-40g-16x4"
    with tempfile.TemporaryDirectory() as folder:
        init(Path(folder) / "project")
        project = Project(Path(folder) / "project")
        texts = PreparedText.open(project, name, "full")
        compiled = texts.compiled
        summary = summarise(project, compiled, machine, project.machine(machine))
        console = Console(width=PLAN_WIDTH, file=io.StringIO(), highlight=False)
        with console.capture() as shown:
            console.print(plan_view({**summary, "harness_installed": True}, compiled, texts.provenance_lines()))
    lines = [f"$ curriculum plan {name} --size full --machine {machine}", *shown.get().splitlines()]
    return "\n".join(line.rstrip() for line in lines).rstrip()


def shortened(plan: str) -> str:
    """`plan` without its curves, the provenance of each text and the assumptions behind the cost."""
    blocks = plan.split("\n\n")
    stages = next(i for i, block in enumerate(blocks) if block.startswith("stage "))
    sources = next(i for i, block in enumerate(blocks) if block.startswith("source "))
    cost = blocks[-1].split("\n  assumed:")[0]
    return "\n\n".join(blocks[: stages + 1]) + f"\n…\n{blocks[sources]}\n…\n{cost}"


# --- keys ------------------------------------------------------------------------------------------------


def tables(name: str) -> str:
    """The key tables of one kind of file: its own keys, then those of every mapping inside it."""
    schema = json_schema.schema_of(json_schema.FILES[name])
    parts, seen = [], set()
    queue = [(("NAME: …" if "properties" not in schema else ""), schema)]
    while queue:
        title, entry = queue.pop(0)
        if "properties" in entry:
            heading = f"### `{title}`\n\n{entry['description']}\n\n" if title else ""
            parts.append(heading + table(entry))
        for key, value in (entry.get("properties") or {"NAME": entry.get("additionalProperties", {})}).items():
            for reference, shape in references(value):
                if reference not in seen:
                    seen.add(reference)
                    queue.append((shape.format(key), schema["definitions"][reference.rpartition("/")[2]]))
    return "\n\n".join(parts)


def table(entry: dict[str, Any]) -> str:
    rows = ["| key | meaning | example | default |", "|---|---|---|---|"]
    for key, value in entry["properties"].items():
        found = AS_IN.search(value["description"])
        meaning = value["description"][: found.start()] + "." if found else value["description"]
        example = found[1] if found else ", ".join(examples(value))
        rows.append(f"| `{key}` | {meaning} | {example} | {default(entry, key)} |")
    return "\n".join(rows)


def examples(value: dict[str, Any]) -> Iterator[str]:
    words = value.get("enum") or [value[key] for key in ("const",) if key in value] or value.get("examples", [])
    return (f"`{str(word).lower() if isinstance(word, bool) else word}`" for word in words)


def default(entry: dict[str, Any], key: str) -> str:
    """What holds where a key is not written."""
    one_of = [option["required"][0] for option in entry.get("oneOf", [])]
    if key in entry.get("required", []):
        return "required"
    if key in one_of:
        return f"one of {', '.join(f'`{other}`' for other in one_of)} is required"
    if entry["title"] == "CurriculumFile" and key in Setting.__dataclass_fields__:
        return "with `from`, as at the branch point" + ("; else required" if key in ROOT_KEYS else "")
    if entry["title"] == "StageEntry" and key not in StageEntry.own:
        return "as in the stage before"
    if rule := needed(entry, key):
        return rule
    value = entry["properties"][key].get("default")
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def needed(entry: dict[str, Any], key: str) -> str:
    """Which shapes need a key, of a mapping whose keys depend on its `shape`; empty where none does."""
    need = []
    for rule in entry.get("allOf", []):
        if "shape" in rule["if"].get("properties", {}):
            then = rule["then"]
            if key in then["required"] or (key == "min" and "oneOf" in then):
                need.append(f"`{rule['if']['properties']['shape']['const']}`")
    return f"required for {', '.join(need)}" if need else ""


def references(value: Any, shape: str = "{}: …") -> Iterator[tuple[str, str]]:
    """The definitions that a value's schema leads to, with how they are written below their key."""
    if not isinstance(value, dict):
        return
    if "$ref" in value:
        yield value["$ref"], shape
    for option in (*value.get("anyOf", []), *value.get("oneOf", [])):
        yield from references(option, shape)
    yield from references(value.get("items"), "{}: [{{…}}, …]")
    yield from references(value.get("additionalProperties"), "{}: {{NAME: …}}")


# --- promises --------------------------------------------------------------------------------------------


def promises() -> str:
    """A table for each folder of tests: every sentence of a `promise` marker there, with the tests that bear it.

    A sentence whose tests are in several folders is listed once, in the folder of its first test.
    """
    tests: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT / "tests").as_posix()
        for sentence, test in markers(ast.parse(path.read_text())):
            tests.setdefault(sentence, []).append(f"{name}::{test}" if test else name)
    tables: dict[str, list[str]] = {}
    for sentence, names in tests.items():
        row = f"| {sentence} | {'<br>'.join(f'`{name}`' for name in names)} |"
        tables.setdefault(str(Path("tests", names[0]).parent), []).append(row)
    return "\n\n".join(
        f"### `{folder}`\n\n| promise | held by |\n|---|---|\n" + "\n".join(rows)
        for folder, rows in sorted(tables.items())
    )


def markers(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each promise of a test module with the test that bears it; an empty name means the whole module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            marks, test = node.decorator_list, node.name
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marks, test = (node.value.elts if isinstance(node.value, ast.List) else [node.value]), ""
        else:
            continue
        for mark in marks:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                yield ast.literal_eval(mark.args[0]), test


# --- commands --------------------------------------------------------------------------------------------


def commands() -> str:
    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=f"curriculum {name}", terminal_width=1000)
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
        rows = ["| word | meaning |", "|---|---|"]
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record and parameter.name != "help":
                rows.append(f"| `{record[0]}` | {' '.join(record[1].split())} |")
        shown = "\n\n" + "\n".join(rows) if len(rows) > 2 else ""
        parts.append(f"## {name}\n\n{command.help}\n\n```\n{usage}\n```{shown}")
    return "\n\n".join(parts)


def main() -> int:
    stale = [path for path, text in files().items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    for path in stale:
        print(path)
        if "--check" not in sys.argv:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(files()[path])
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
