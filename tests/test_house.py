"""The floors of the house: what may import what. This list is also the map; a new module finds its room here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS: list[set[str]] = [
    {"errors", "units", "schedule", "permutation", "mixing", "durable", "bootstrap"},
    {"passes", "plan", "readings", "job", "shards", "tokenizer", "sentencepiece"}
    | {"checkpoints", "ledger", "huggingface", "stopping", "telling"},
    {"yamlfile", "schema", "models", "layout"},
    {"project", "lineage"},
    {"scaling", "imports", "harness"},
    {"segments", "order", "stock", "limits", "cadence"},
    {"planner"},
    {"corpora", "launchers", "starter"},
    {
        "diff",
        "trace",
        "verify",
        "results",
        "summary",
        "runs",
        "ran",
        "queued",
        "following",
        "standing",
        "modelcard",
        "compare",
        "benchmarks",
        "marks",
        "whereabouts",
        "inspection",
    },
    {
        "supervisor",
        "stagejobs",
        "batch",
        "submission",
        "taskjobs",
        "joining",
        "attempts",
        "preparation",
        "textjobs",
        "begun",
        "evaluation",
        "orchestrator",
        "scaffold",
        "branching",
        "retention",
        "exports",
        "importing",
        "measuring",
        "remedy",
        "damage",
        "doctor",
    },
    {"view", "live", "watch", "picture", "planpicture", "overlay", "axes", "report", "notebook"},
    {"cli", "__main__"},
]
RUNNER_MAY_IMPORT = FLOORS[0] | FLOORS[1]
RUNNER_LIBRARIES = {"torch", "numpy", "safetensors", "runner", "curriculum"}
# the rooms of the runner that may also import what prepares text
PREPARATION = {
    "prepare",
    "blocks",
    "adopting",
    "taskexecutor",
    "appending",
    "readers",
    "extract",
    "shardwriter",
    "vocabulary",
}
PREPARATION_LIBRARIES = {
    "datatrove",
    "datasets",
    "tokenizers",
    "orjson",
    "pyarrow",
    "loguru",
    "fsspec",
    "huggingface_hub",
}
# the one room that may import trackers, which are extras
TRACKERS = {"wandb", "trackio"}
# the one room that may import the evaluation harness, an extra
HARNESS = {"lm_eval"}
FORBIDDEN_HERE = {"torch", "datatrove", "datasets", "transformers"}
FORBIDDEN_CALLS = {"eval", "exec"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "misc"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[str]:
    """Every module that a file imports, at the top or inside functions, as dotted names."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def floor_of(name: str) -> int:
    for number, floor in enumerate(FLOORS):
        if name in floor:
            return number
    raise AssertionError(f"`{name}` has no floor: add it to FLOORS in tests/test_house.py")


def rooms_imported(path: Path) -> set[str]:
    rooms = set()
    for name in imports(path):
        parts = name.split(".")
        if (
            parts[0] == "curriculum"
            and len(parts) > 1
            and (
                (ROOT / "curriculum" / f"{parts[1]}.py").exists() or (ROOT / "curriculum" / parts[1]).is_dir()
            )
        ):
            rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize("path", modules("curriculum"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_in_curriculum_go_down_only(path: Path) -> None:
    mine = room(path)
    if mine == "__init__":
        assert rooms_imported(path) == {"notebook"}  # inside `open` alone: the test below
        return
    for other in rooms_imported(path) - {mine}:
        assert floor_of(other) <= floor_of(mine), f"{mine} imports {other}, which stands above it"


def test_rooms_on_one_floor_import_each_other_without_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in modules("curriculum"):
        graph.setdefault(room(path), set()).update(rooms_imported(path) - {room(path)})
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join((*above, name))}"
        if name not in done:
            for other in graph.get(name, set()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", modules("runner"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_runner_knows_no_yaml_and_no_lineage(path: Path) -> None:
    for other in rooms_imported(path):
        assert other in RUNNER_MAY_IMPORT, f"{path.name} imports curriculum.{other}"


@pytest.mark.parametrize("path", modules("runner"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_runner_trains_with_torch_numpy_safetensors_and_the_standard_library_alone(path: Path) -> None:
    allowed = RUNNER_LIBRARIES | (PREPARATION_LIBRARIES if room(path) in PREPARATION else {"flash_attn"})
    allowed |= TRACKERS if room(path) == "trackers" else set()
    allowed |= HARNESS if room(path) == "harness" else set()
    for name in imports(path):
        top = name.split(".")[0]
        assert top in allowed or top in sys.stdlib_module_names, f"{path.name} imports {top}"


@pytest.mark.parametrize("path", modules("curriculum"), ids=lambda p: str(p.relative_to(ROOT)))
def test_curriculum_imports_no_torch_and_no_datatrove(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & (FORBIDDEN_HERE | {"runner"})


@pytest.mark.parametrize(
    "path", modules("curriculum") + modules("runner"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_nothing_is_unpickled_evaluated_or_passed_to_a_shell(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_MODULES
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in FORBIDDEN_CALLS
        assert called not in {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"}
        for keyword in node.keywords:
            assert not (keyword.arg == "shell" and getattr(keyword.value, "value", None) is True)
            assert not (keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is True)


def test_the_tour_names_every_room() -> None:
    told = (ROOT / "docs/tour.md").read_text().partition("## The rooms")[2].split("```")[1]
    rooms = {
        path.stem if path.is_file() else f"{path.name}/"
        for package in ("curriculum", "runner")
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - set(told.split()) <= {"__init__"}


def test_no_room_has_a_vague_name() -> None:
    names = {path.stem for path in modules("curriculum") + modules("runner")}
    assert not names & VAGUE_NAMES


@pytest.mark.parametrize(
    "path", modules("curriculum") + modules("runner"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_module_says_why_it_exists_and_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= 500


@pytest.mark.processes
def test_importing_the_command_line_loads_neither_torch_nor_numpy_nor_pydantic() -> None:
    heavy = "('torch', 'numpy', 'pydantic', 'yaml', 'rich.table')"
    code = f"import sys, curriculum.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
def test_importing_curriculum_loads_none_of_its_rooms() -> None:
    code = (
        "import sys, curriculum; "
        "print([m for m in sys.modules if m.startswith('curriculum.') or m in ('numpy', 'pydantic')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
def test_a_notebook_loads_no_torch_datatrove_or_pandas() -> None:
    code = (
        f"import sys, curriculum; curriculum.open({str(ROOT)!r}).plan('v1.1', 'full').stages; "
        "print([m for m in ('torch', 'datatrove', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
def test_planning_loads_no_torch_datatrove_or_datasets() -> None:
    code = (
        "import sys; from pathlib import Path; from curriculum.project import Project; "
        "from curriculum.corpora import compile_with_texts; "
        f"compile_with_texts(Project.find(Path({str(ROOT)!r})), 'v1.1-math-code', 'full'); "
        "print([m for m in ('torch', 'datatrove', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
