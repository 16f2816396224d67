"""What stays true of every module: libraries, forbidden calls, names, length. pyproject.toml has the layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

RUNNER_LIBRARIES = {"torch", "numpy", "safetensors", "runner", "curriculum"}
# the package of the runner that may also import what prepares text
PREPARATION = "prepare"
PREPARATION_LIBRARIES = {
    "gigatoken",
    "awkward",
    "loguru",
    "datatrove",
    "datasets",
    "tokenizers",
    "orjson",
    "pyarrow",
    "fsspec",
    "huggingface_hub",
}
# the one module that may import trackers, which are extras
TRACKERS = {"wandb", "trackio"}
# the one module that may import lm-evaluation-harness, an extra
HARNESS = {"lm_eval"}
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


@pytest.mark.parametrize("path", modules("runner"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_runner_trains_with_torch_numpy_safetensors_and_the_standard_library_alone(path: Path) -> None:
    prepares = path.parent.name == PREPARATION
    allowed = RUNNER_LIBRARIES | (PREPARATION_LIBRARIES if prepares else {"flash_attn"})
    allowed |= TRACKERS if path.stem == "trackers" else set()
    allowed |= HARNESS if path.stem == "lm_eval" else set()
    for name in imports(path):
        top = name.split(".")[0]
        assert top in allowed or top in sys.stdlib_module_names, f"{path.name} imports {top}"


@pytest.mark.promise("Nothing is unpickled, evaluated or passed to a shell")
@pytest.mark.parametrize("path", modules("curriculum") + modules("runner"), ids=lambda p: str(p.relative_to(ROOT)))
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


@pytest.mark.promise("Imports go down the layers only, without a circle; the runner reads no YAML and no lineage")
def test_imports_keep_the_contracts_of_pyproject() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-logo"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_listing_of_curriculum_is_short_enough_to_be_read_at_once() -> None:
    entries = [path for path in (ROOT / "curriculum").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 22
    assert sum(path.is_file() for path in entries) <= 8


def test_no_module_has_a_vague_name() -> None:
    names = {path.stem for path in modules("curriculum") + modules("runner")}
    assert not names & VAGUE_NAMES


@pytest.mark.parametrize("path", modules("curriculum") + modules("runner"), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_why_it_exists_and_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= 500


@pytest.mark.promise("`curriculum plan` loads no torch, datatrove or datasets; `curriculum --help` not even numpy")
@pytest.mark.processes
def test_importing_the_command_line_loads_neither_torch_nor_numpy_nor_pydantic() -> None:
    heavy = "('torch', 'numpy', 'pydantic', 'yaml', 'rich.table')"
    code = f"import sys, curriculum.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
def test_importing_curriculum_loads_none_of_its_packages() -> None:
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


@pytest.mark.promise("`curriculum plan` loads no torch, datatrove or datasets; `curriculum --help` not even numpy")
@pytest.mark.processes
def test_planning_loads_no_torch_datatrove_or_datasets() -> None:
    code = (
        "import sys; from pathlib import Path; from curriculum.config.project import Project; "
        "from curriculum.compiler.prepared_text import PreparedText; "
        f"PreparedText.open(Project.find(Path({str(ROOT)!r})), 'v1.1-math-code', 'full').compiled; "
        "print([m for m in ('torch', 'datatrove', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
