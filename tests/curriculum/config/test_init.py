"""`curriculum init`: what it keeps, what it refuses before it writes a file, and a project that trains on any text."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import re
import subprocess
from pathlib import Path

import commands
import pytest
from jsonschema import Draft7Validator

from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.summary import summarise
from curriculum.config import init, is_name, json_schema, starter
from curriculum.config.project import Project
from curriculum.config.yaml import parse_yaml
from curriculum.errors import LINES_AT_MOST, ConfigError

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return commands.run(*words, folder=folder)


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def documents(folder: Path, number: int, each: int) -> Path:
    """A folder of text files that take no space on the disk."""
    folder.mkdir(parents=True)
    for n in range(number):
        with open(folder / f"{n}.txt", "wb") as file:
            file.truncate(each)
    return folder


# --- beside files that are there ---------------------------------------------------------------------------


@pytest.mark.promise(
    "`curriculum init` writes a project from the wheel's copies and changes no existing file but for "
    "lines added to a .gitignore"
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "/runs/\n/data/\n"),
        ("", "/runs/\n/data/\n"),
        ("*.pyc\n", "*.pyc\n/runs/\n/data/\n"),
        ("*.pyc", "*.pyc\n/runs/\n/data/\n"),
        ("/data/\r\n*.pyc\r\n", "/data/\r\n*.pyc\r\n/runs/\n"),
        ("/data/\n/runs/", "/data/\n/runs/"),
    ],
)
def test_init_keeps_a_gitignore_and_adds_the_lines_that_it_lacks(
    before: str | None, after: str, tmp_path: Path
) -> None:
    if before is not None:
        (tmp_path / ".gitignore").write_bytes(before.encode())
    done = call(tmp_path, "init", ".")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".gitignore").read_bytes() == after.encode()
    assert (tmp_path / "stages" / "v1.1.yaml").is_file()


def test_a_gitignore_is_replaced_as_a_whole_never_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore = tmp_path / ".gitignore"
    ignore.write_text("mine\n")

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", no_room)
    with pytest.raises(OSError, match="No space"):
        init.init(tmp_path)
    assert everything(tmp_path) == {".gitignore": b"mine\n"}


@pytest.mark.promise(
    "`curriculum init` writes a project from the wheel's copies and changes no existing file but for "
    "lines added to a .gitignore"
)
@pytest.mark.parametrize(
    "name",
    [
        *("sources.yaml", "stages/v1.1.yaml", "mixtures/README.md", ".schema/sizes.json"),
        *("stages", "tasks", ".schema"),  # a file where a folder is wanted
    ],
)
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_any_other_file_in_the_way_is_refused_before_one_is_written(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if kind == "file":
        (tmp_path / name).write_text("mine\n")
    else:
        (tmp_path / name).symlink_to("nowhere")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"{name}` ")):
        init.init(tmp_path)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_gitignore_that_is_no_plain_file_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        (tmp_path / ".gitignore").mkdir()
    else:
        (tmp_path / "elsewhere").write_text("mine\n")
        (tmp_path / ".gitignore").symlink_to("elsewhere")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match="not a regular file"):
        init.init(tmp_path)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("folder", ["afile", "afile/b", "/proc/x", "dangling", "dangling/b"])
def test_a_place_where_no_project_can_be_is_refused_on_one_screen(folder: str, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("mine\n")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = everything(tmp_path)
    done = call(tmp_path, "init", folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr
    assert len(done.stderr.splitlines()) < LINES_AT_MOST
    assert everything(tmp_path) == before


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the system, since the user who runs the tests may be allowed everything."""
    monkeypatch.setattr(init.os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ConfigError, match="may not be written"):
        init.init(tmp_path / "new" / "project")
    assert everything(tmp_path) == {}


def test_a_project_inside_a_project_is_made_and_said(tmp_path: Path) -> None:
    assert "inside" not in call(tmp_path, "init", "outer").stdout
    done = call(tmp_path / "outer", "init", "inner")
    assert (
        f"inner is inside the project {tmp_path / 'outer'}: commands given in it use the new one"
        in done.stdout.splitlines()
    )
    assert (tmp_path / "outer" / "inner" / "stages" / "v1.1.yaml").is_file()


# --- for somebody's own text ---------------------------------------------------------------------------------


@pytest.mark.promise(
    "`curriculum init --text` writes a project that trains on that text as it is, or refuses before it writes a file"
)
@pytest.mark.slow
def test_a_project_for_two_folders_of_text_trains_as_it_was_written(tmp_path: Path) -> None:
    """Also where the folders' names are no names of sources, and lie elsewhere."""
    topics = pydoc_data.topics.topics
    for at, (key, text) in enumerate(topics.items()):
        folder = tmp_path / ("Help Topics (1)" if at % 2 else "elsewhere/help-topics-1")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.txt").write_text(text)
    absolute = str(tmp_path / "elsewhere" / "help-topics-1")
    made = call(tmp_path, "init", "mine", "--text", "Help Topics (1)", "--text", absolute)
    assert made.returncode == 0, made.stderr
    project = tmp_path / "mine"
    sources = Project(project).sources.sources
    assert {name: entry.read.folder for name, entry in sources.items()} == {
        "help-topics-1": "../Help Topics (1)",
        "help-topics-1-2": absolute,
    }
    planned = call(project, "plan", "first")
    assert planned.returncode == 0, planned.stderr
    done = call(project, "run", "first")
    assert done.returncode == 0, done.stderr
    assert (project / "runs/full/first/cooldown/DONE").exists()
    row = r"^(?:first/main start|end of first/\w+) +[\d,]+ +(\d\S+)"
    start, main, cooldown = map(float, re.findall(row, done.stdout, re.M))
    assert cooldown < main < start
    compiled = compile_curriculum(Project(project), "first", "full")
    assert compiled.stages[1].setting.mixture == "blend"


def test_a_project_for_twenty_documents_of_very_different_lengths_trains_as_it_was_written(tmp_path: Path) -> None:
    """Of which more than half are held out, since they are chosen by content: the rest is read again and again."""
    topics = sorted(pydoc_data.topics.topics.items())[::2]
    folders = [tmp_path / "help", tmp_path / "more"]
    for at, (key, text) in enumerate(topics):
        folder = folders[at % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{key}.txt").write_text(text)
    made = call(tmp_path, "init", "mine", "--text", "help", "--text", "more")
    assert made.returncode == 0, made.stderr
    done = call(tmp_path / "mine", "run", "first")
    assert done.returncode == 0, done.stderr


SIZES = {  # documents, bytes of each
    "the least there may be": (20, 4_100),
    "many small ones": (2000, 500),
    "some megabytes": (300, 10_000),
    "few large ones": (20, 20_000_000),
    "a corpus": (1000, 100_000_000),
}


@pytest.mark.promise("`init` and `import` write cadences with which evaluations take less than a tenth of the compute")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        *((size, None) for size in SIZES),
        *zip(SIZES, reversed(SIZES), strict=True),
        ("many small ones", "the least there may be"),
    ],
)
def test_the_lengths_suit_whatever_text_there_is(first: str, second: str | None, tmp_path: Path) -> None:
    folders = [documents(tmp_path / f"text{n}", *SIZES[s]) for n, s in enumerate((first, second)) if s]
    _, found = init.init_for(tmp_path / "p", [str(folder) for folder in folders])
    project = Project(tmp_path / "p")
    compiled = compile_curriculum(project, "first", "full")
    summary = summarise(project, compiled, "local", project.machine("local"))
    main, cooldown = summary["stages"]
    assert 0.001 < summary["cost"]["evaluation_share"] < 0.1
    assert min(main["evaluations"], main["held_out_windows"]) > 1
    assert 10_000 < cooldown["ends_at"] < 2_100_000
    assert main["batch_sequences"] < cooldown["batch_sequences"]
    for source in found:
        drawn = sum(stage["sources"].get(source.name, {"tokens": 0})["tokens"] for stage in (main, cooldown))
        assert 0 < drawn < 2.3 * source.trained_on  # a mixture allows 4 passes
        assert source.tokens * source.held_out > 64 * 128
        assert source.held_out == project.sources.sources[source.name].held_out.share


def test_every_file_of_a_project_for_text_names_its_schema_and_fits_it(tmp_path: Path) -> None:
    folders = [documents(tmp_path / name, 50, 10_000) for name in ("a", "b")]
    written, _ = init.init_for(tmp_path / "p", [str(folder) for folder in folders])
    files = [path.relative_to(tmp_path / "p").as_posix() for path in written if path.suffix == ".yaml"]
    assert set(files) == {
        *("sources.yaml", "sizes.yaml", "machines.yaml", "stages/first.yaml"),
        *("mixtures/a.yaml", "mixtures/b.yaml", "mixtures/blend.yaml"),
    }
    for path in files:
        text = (tmp_path / "p" / path).read_text()
        assert text.splitlines()[0] == json_schema.modeline(path)
        folder, _, name = path.rpartition("/")
        schema = json_schema.schema_of(json_schema.FILES[folder or name.removesuffix(".yaml")])
        value = parse_yaml(text.encode(), path).value
        Draft7Validator(schema).validate(json.loads(json.dumps(value, default=float)))
    assert {path.name for path in written} >= {"README.md", "stages.json"}
    assert (tmp_path / "p" / ".gitignore").read_text() == "/runs/\n/data/\n"


@pytest.mark.parametrize(
    "folder", ["Help Topics (1)", "2024", "..x..y", "данные", "a" * 200, "-", "a.", "blend", "null", "True"]
)
def test_a_folder_s_name_is_made_fit_for_a_source(folder: str, tmp_path: Path) -> None:
    one = documents(tmp_path / folder, 50, 10_000)
    two = documents(tmp_path / "other" / folder, 50, 10_000)
    init.init_for(tmp_path / "p", [str(one), str(two), str(one) + "/"])
    project = Project(tmp_path / "p")
    names = list(project.sources.sources)
    assert len(names) == 2
    assert all(map(is_name, names))
    assert len(project.names("mixtures")) == 3
    compile_curriculum(project, "first", "full")


@pytest.mark.promise(
    "`curriculum init --text` writes a project that trains on that text as it is, or refuses before it writes a file"
)
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("nowhere", "is not a directory"),
        ("a-file", "is not a directory"),
        ("s3://bucket/texts", "is not a directory"),
        ("empty", "holds no file that can be read"),
        ("pictures", "holds no file that can be read"),
        ("little", "holds 3 kB of text: too little"),
        ("single", "holds 1 document: "),
        ("dangling", "cannot be read"),
        (".", "would also hold files that the project writes"),
        ("p/data", "would also hold files that the project writes"),
        ("p", "would also hold files that the project writes"),
    ],
)
def test_text_that_cannot_be_trained_on_is_refused_before_anything_is_written(
    folder: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "empty").mkdir()
    documents(tmp_path / "p" / "data", 50, 10_000)
    documents(tmp_path / "little", 30, 100)
    documents(tmp_path / "single", 1, 10_000_000)
    (documents(tmp_path / "dangling", 50, 10_000) / "x.txt").symlink_to("nowhere")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"text" * 100_000)
    before = everything(tmp_path)
    done = call(tmp_path, "init", "p", "--text", folder)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr
    assert everything(tmp_path) == before


def test_rows_are_documents_so_that_one_file_of_them_will_do(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "all.jsonl").write_bytes(b'{"text": "a b c"}\n' * 20_000)
    (source,) = starter.sources(tmp_path / "p", [str(tmp_path / "rows")])
    assert source.held_out < 0.25
