"""`curriculum trace` on real prepared text: what it says is what every step's batch shows, and its edits hold."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from projects import BuiltOnce, write_small_project
from rich.console import Console

from curriculum.__main__ import main
from curriculum.analysis import batch, shard_impact, trace
from curriculum.artifacts import job_process, jobs
from curriculum.cli.view.trace import shard_view
from curriculum.compiler import prepared_text
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import NotFound, PlanError, RunFailed
from curriculum.stream import Batch
from runner.parallel.ranks import Ranks
from runner.train import loop
from runner.train.state import State

Run = Callable[..., Any]
SOURCES = """\
tokenizers:
  small: {train: [prose, code], vocab_size: 300}
sources:
  prose: {read: {folder: texts/prose}, held_out: 25%, tasks: 3}
  code: {read: {folder: texts/code}, held_out: 25%, tasks: 4}
"""


@pytest.fixture(scope="session")
def prepared(built_once: BuiltOnce) -> Path:
    def build(root: Path) -> None:
        write_small_project(root)
        (root / "sources.yaml").write_text(SOURCES)
        said(root, "prepare", "variant", "--size", "full")

    return built_once("prepared-in-shards", build)


@pytest.fixture(scope="session")
def trained(prepared: Path, built_once: BuiltOnce) -> Path:
    """With the trunk trained to its end; left as it is."""

    def build(root: Path) -> None:
        shutil.copytree(prepared, root)
        said(root, "run", "trunk", "--size", "full")

    return built_once("trained-on-shards", build)


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """A copy of its own: some tests train or edit."""
    shutil.copytree(prepared, tmp_path / "project")
    return tmp_path / "project"


def said(root: Path, *words: str, check: bool = True) -> str:
    """What the command line prints."""
    done = commands.run(*words, folder=root)
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


def asked(root: Path, *words: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(said(root, "trace", *words, "--size", "full", "--json"))
    return value


def shown(root: Path, name: str) -> dict[str, list[tuple[int, int]]]:
    """Document to (step, slot) of every reading, by listing every step of the lineage."""
    texts = prepared_text.PreparedText.open(Project(root), name, "full")
    compiled = texts.compiled
    last = compiled.stages[-1]
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for step in range(last.plan.first_step + last.steps_run):
        for slot in batch.batch(compiled, texts, step)["slots"]:
            for document in slot["documents"]:
                found[f"{slot['source']}:{document['id']}"].append((step, slot["slot"]))
    return found


@pytest.mark.promise(
    "The inverse of the order finds exactly the reads that a full replay shows; counts of large ranges "
    "are exact or state their error"
)
def test_every_reading_of_every_document_is_the_one_that_its_step_shows(prepared: Path) -> None:
    listed = shown(prepared, "variant")
    project = Project(prepared)
    texts = prepared_text.PreparedText.open(project, "variant", "full")
    compiled = texts.compiled
    assert len(listed) > 50
    for key in sorted(listed)[::3]:
        source, _, name = key.partition(":")
        answer = trace.trace(project, [compiled], texts, document=name, source=source)
        got = [(r["step"], r["slot"]) for stage in answer["stages"] for r in stage["steps"]]
        assert got == sorted(listed[key])
        assert answer["readings"] == len(got)
        assert answer["readings_done"] == 0


def test_a_held_out_document_is_found_and_never_read(prepared: Path) -> None:
    names = {path.name for path in (prepared / "texts/prose").iterdir()}
    trained = {key.partition(":")[2] for key in shown(prepared, "trunk")}
    project = Project(prepared)
    texts = prepared_text.PreparedText.open(project, "trunk", "full")
    compiled = texts.compiled
    splits = set()
    for name in sorted(names - trained):
        answer = trace.trace(project, [compiled], texts, document=name)
        splits.add(answer["found"][0]["split"])
        if answer["found"][0]["split"] == "held-out":
            assert answer["readings"] == 0
    assert "held-out" in splits


def test_an_id_that_several_corpora_gave_is_found_in_each(prepared: Path) -> None:
    answer = asked(prepared, "variant", "--document", "000.txt")
    assert {place["source"] for place in answer["found"]} == {"prose", "code"}


def test_a_shared_trunk_is_answered_once_and_each_reading_says_whose_it_is(prepared: Path) -> None:
    answer = asked(prepared, "trunk", "variant", "--source", "prose", "--range", "0:5")
    names = [f"{stage['curriculum']}/{stage['stage']}" for stage in answer["stages"]]
    assert len(names) == len(set(names)) == 5
    assert answer["stages"][0]["lineages"] == ["trunk", "variant"]
    for stage in answer["stages"]:
        for reading in stage["steps"]:
            assert reading["lineages"] == stage["lineages"]
            assert reading["window"] in range(5)


def test_windows_and_tokens_name_the_same_stretch(prepared: Path) -> None:
    def readings(span: str) -> list[Any]:
        answer = asked(prepared, "variant", "--source", "code", "--range", span)
        return [stage["steps"] for stage in answer["stages"]]

    assert readings("2:4") == readings("64:128 tokens")
    texts = prepared_text.PreparedText.open(Project(prepared), "variant", "full")
    compiled = texts.compiled
    stages = trace.shared_stages(Project(prepared), [compiled])
    shards = trace.tokens_of_shards(texts, stages[-1].stage.plan, "code")
    assert len(shards) == 4
    first_of_second = (shards[0] - 1) // 32
    place = trace.Location("code", 1, 0, 1)
    assert list(trace.windows_of(place, shards, 32)) == [first_of_second]


def test_after_training_it_says_what_was_read_as_of_the_last_checkpoint(trained: Path) -> None:
    answer = asked(trained, "trunk", "variant", "--source", "prose", "--range", "0:40")
    for stage in answer["stages"]:
        for reading in stage["steps"]:
            assert reading["read"] == (stage["curriculum"] == "trunk")
    assert answer["readings_done"] > 0
    bad = asked(trained, "trunk", "variant", "--source", "prose", "--shard", "1", "--machine", "local")
    basic, variant = bad["stages"][0], bad["stages"][3]
    texts = prepared_text.PreparedText.open(Project(trained), "trunk", "full")
    compiled = texts.compiled
    listed = trace.trace(Project(trained), [compiled], texts, source="prose", span=_windows_of_shard(texts, "prose", 1))
    first = listed["stages"][0]["steps"][0]
    assert (basic["first_step"], basic["first"]) == (first["step"], first["position"])
    assert bad["tokens_read"] == 32 * listed["readings"]
    assert basic["last_clean"] <= basic["first"] < basic["last_clean"] + 1024 + 256
    assert all(int(name.split("-")[-1]) > basic["first"] for name in basic["checkpoints_touched"])
    assert variant["reached"] == variant["redo_tokens"] + 6144 or variant["redo_tokens"] == 0
    # a later stage is spoilt from its first step, whatever it reads itself
    later = bad["stages"][1]
    assert later["redo_tokens"] == 9216 - 6144
    assert bad["redo_tokens"] == 12288 - basic["last_clean"]


def _windows_of_shard(texts: prepared_text.PreparedText, source: str, shard: int) -> str:
    manifest = texts.manifest(source)
    assert manifest is not None
    windows = [(each.tokens - 1) // 32 for each in manifest.splits["train"].shards]
    return f"{sum(windows[:shard])}:{sum(windows[: shard + 1])}"


@pytest.mark.promise("The edit that `trace` proposes for a bad shard compiles to a plan that never reads it")
def test_the_edit_that_leaves_a_shard_out_is_a_plan_that_never_reads_it(project: Path) -> None:
    bad = asked(project, "variant", "--source", "code", "--shard", "2")
    (edit,) = bad["edits"]
    assert edit["kind"] == "leave_out"
    assert "stages/variant.yaml, stage continual" in edit["file"]
    path = project / "stages/variant.yaml"
    path.write_text(path.read_text().replace("ramp: 1536 tokens}", f"ramp: 1536 tokens, {edit['yaml']}}}"))
    again = asked(project, "variant", "--source", "code", "--shard", "2")
    assert [stage["readings"] for stage in again["stages"]] == [0, 0, 0]
    assert bad["stages"][1]["readings"] > 0


@pytest.mark.promise("The edit that `trace` proposes for a bad shard compiles to a plan that never reads it")
def test_the_edit_after_training_branches_from_the_last_clean_checkpoint_and_never_reads_the_shard(
    trained_copy: Path,
) -> None:
    project = trained_copy
    bad = asked(project, "variant", "--source", "code", "--shard", "0")
    (edit,) = bad["edits"]
    assert bad["stages"][0]["checkpoints_touched"] == []
    assert edit["file"] == "stages/variant-clean.yaml"
    (project / edit["file"]).write_text(edit["yaml"] + "\n")
    again = asked(project, "variant-clean", "--source", "code", "--shard", "0")
    assert [stage["readings"] for stage in again["stages"]] == [0] * len(again["stages"])
    assert said(project, "run", "variant-clean", "--size", "full", "--dry-run")


def test_the_proposed_file_keeps_the_ramp_and_what_is_left_out_already(trained_copy: Path) -> None:
    """From the step boundary at which the stage begins that reads the shard, past the end that is declared before."""
    project = trained_copy
    variant = project / "stages/variant.yaml"
    ramped = "ramp: 1536 tokens, leave_out: [{source: code, shard: 1}]}"
    variant.write_text(variant.read_text().replace("trunk/basic", "trunk@6143").replace("ramp: 1536 tokens}", ramped))
    (edit,) = asked(project, "variant", "--source", "code", "--shard", "0")["edits"]
    (project / edit["file"]).write_text(edit["yaml"] + "\n")
    plans = [
        PreparedText.open(Project(project), name, "full").compiled.stages[1] for name in ("variant", "variant-clean")
    ]
    assert plans[0].plan.blends == plans[1].plan.blends
    assert plans[0].ramp_sequences == plans[1].ramp_sequences == 48
    assert [entry.shard for entry in plans[1].setting.leave_out] == [1, 0]


@pytest.mark.parametrize(
    ("number", "listed"), [(3, "in 3 checkpoints: g1, g2, g3"), (4, "in 4 checkpoints: …, g2, g3, g4")]
)
def test_a_list_of_checkpoints_that_is_cut_says_so(prepared: Path, number: int, listed: str) -> None:
    bad = asked(prepared, "variant", "--source", "code", "--shard", "0")
    bad["stages"][1]["checkpoints_touched"] = [f"variant/continual g{at}" for at in range(1, number + 1)]
    shown = Console(file=io.StringIO(), width=100)
    with shown.capture() as text:
        shown.print(shard_view(bad))
    assert listed in text.get()


def test_a_shard_read_in_few_steps_is_skipped_step_by_step(project: Path) -> None:
    """With a stage that is the last to read the source, and hardly does: entries of `skip`, exact to the step."""
    (project / "mixtures/rare.yaml").write_text("weights: {prose: 40, code: 1}\n")
    (project / "stages/late.yaml").write_text(
        "from: trunk/basic\nstages:\n  - {name: only, until: 9216, mixture: rare}\n"
    )
    both = (asked(project, "late", "--source", "code", "--shard", str(shard)) for shard in range(4))
    bad = next(found for found in both if found["stages"][1]["readings"])
    (edit,) = bad["edits"]
    assert edit["kind"] == "skip"
    path = project / "stages/late.yaml"
    path.write_text(path.read_text().replace("mixture: rare}", f"mixture: rare, {edit['yaml']}}}"))
    again = asked(project, "late", "--source", "code", "--shard", str(bad["shard"]))
    assert again["stages"][1]["readings"] == 0
    assert "skips the data" in said(project, "plan", "late", "--size", "full")
    assert "skips the data" in said(project, "status", "late", "--size", "full")


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["--document", "0000.txt"], "no document `0000.txt`", "like it: `"),
        (["--source", "prose", "--range", "5:5"], "has no windows of 32 5 to 5", "counted from 0"),
        (["--source", "prose", "--range", "0:99999999"], "has no windows of 32", "it has "),
        (["--source", "prose", "--range", "a-b"], "cannot be read", "--range 1200:1300"),
        (["--source", "poems", "--range", "0:1"], "reads a source `poems`", "prose"),
        (["--source", "prose", "--shard", "3"], "has no shard 3", "it has 3"),
        (["--source", "prose"], "takes one text", "--document ID"),
        (["--shard", "3"], "takes one text", "--document ID"),
    ],
)
def test_what_does_not_exist_gets_one_screen(
    prepared: Path,
    words: list[str],
    says: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(prepared)
    monkeypatch.setattr("sys.argv", ["curriculum", "trace", "variant", *words, "--size", "full"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert says in err
    assert hint in err
    assert len(err.splitlines()) < 20


def test_on_a_terminal_of_80_columns_nothing_is_cut(prepared: Path) -> None:
    from rich.console import Console

    from curriculum.cli.view.trace import shard_view, trace_view

    project = Project(prepared)
    texts = [prepared_text.PreparedText.open(project, name, "full") for name in ("trunk", "variant")]
    compiled = [of_name.compiled for of_name in texts]
    found = trace.trace(project, compiled, texts[0], document="000.txt")
    bad = shard_impact.shard_impact(project, compiled, texts[0], "code", 1, project.machine("local"))
    for view in (trace_view(found), shard_view(bad)):
        console = Console(width=80, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
        console.print(view)
        assert "…" not in console.export_text()


def test_without_prepared_text_a_range_of_the_full_plan_is_answered_at_any_step_in_a_moment() -> None:
    project = Project(Path(__file__).resolve().parents[3])
    started = time.process_time()
    texts = [prepared_text.PreparedText.open(project, name, "full") for name in ("v1.1", "v1.1-math-code")]
    both = [of_name.compiled for of_name in texts]
    answer = trace.trace(project, both, texts[0], source="slimpajama", span="320000000:320000064")
    assert time.process_time() - started < 1
    assert answer["readings"] == sum(len(stage["steps"]) for stage in answer["stages"]) > 64 * 2
    for stage, compiled in ((answer["stages"][2], both[0]), (answer["stages"][3], both[1])):
        for reading in stage["steps"][:3]:
            plan = batch.stage_of(compiled, reading["step"]).plan
            draws = plan.draws(reading["step"])
            assert draws.window[reading["slot"]] == reading["window"]
    with pytest.raises(PlanError, match="not prepared yet"):
        shard_impact.shard_impact(project, [both[0]], texts[0], "slimpajama", 3, project.machine("local"))
    with pytest.raises(NotFound, match="not prepared yet"):
        trace.trace(project, [both[0]], texts[0], document="x")


# --- the ledger ------------------------------------------------------------------------------------------


@pytest.mark.promise("A trainer whose count of windows differs from the plan stops before it saves")
def test_a_trainer_whose_count_parts_from_the_plan_stops_before_it_saves(
    trained_copy: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = trained_copy / "runs/full/trunk/basic"
    written = (stage / "attempts/0001/job.json").read_text()
    written = written.replace(str(trained), str(trained_copy)).replace("attempts/0001", "attempts/0099")
    (stage / "job.json").write_text(written)
    (stage / "attempts/0099").mkdir()
    shutil.rmtree(stage / "checkpoints")
    (stage / "DONE").unlink()
    job = jobs.load(stage / "job.json")
    assert isinstance(job, jobs.TrainJob)
    honest = loop.count

    def forgetful(state: State, batch: Batch, *rest: Any, **more: Any) -> Any:
        counted = honest(state, batch, *rest, **more)
        state.windows["prose"] -= batch.step == 3
        return counted

    monkeypatch.setattr(loop, "count", forgetful)
    alone = Ranks(0, 1, 1, torch.device("cpu"))
    with pytest.raises(RunFailed, match="`prose` 31 instead of 32"):
        loop.train(job, alone, job_process.StopFlag())
    assert not list((stage / "checkpoints").glob("g0-*"))


# --- appended text, end to end ---------------------------------------------------------------------------


@pytest.mark.promise(
    "Appended files move nothing that was planned; no window is read twice before every window was read once"
)
def test_files_that_are_appended_become_shards_behind_the_others_and_move_nothing_that_was_planned(
    trained_copy: Path,
) -> None:
    project = trained_copy
    home = Project(project)
    texts = prepared_text.PreparedText.open(home, "variant", "full")
    before = texts.compiled
    was = texts.manifest("code")
    assert was is not None
    bytes_before = {path.name: path.read_bytes() for path in (texts.folder("code") / "train").iterdir()}
    for number in range(60, 75):
        (project / f"texts/code/{number:03d}.txt").write_text(f"yield {number} return lambda x = y + " * 60)
    said(project, "prepare", "variant", "--size", "full", "--append", "--source", "code")
    texts = prepared_text.PreparedText.open(home, "variant", "full")
    after = texts.compiled
    now = texts.manifest("code")
    assert now is not None
    assert now.earlier[0].digest == was.digest
    assert now.splits["train"].shards[:4] == was.splits["train"].shards
    assert len(now.splits["train"].shards) > 4
    assert now.splits["train"].documents > was.splits["train"].documents
    for name, content in bytes_before.items():
        assert (texts.folder("code") / "train" / name).read_bytes() == content
    assert before.stages[0].plan.fingerprint == after.stages[0].plan.fingerprint
    old, new = before.stages[1].plan, after.stages[1].plan
    edge = was.splits["train"].windows(32)
    for step in range(old.first_step, old.stop_step):
        a, b = old.draws(step), new.draws(step)
        code = a.source == a.names.index("code")
        same = ~code | (a.item < edge)
        assert (a.source == b.source).all()
        assert (a.window[same] == b.window[same]).all()
    segments = new.sources["code"].segments
    assert [(s.pass_number, s.name) for s in segments] == [(0, "0"), (0, "1"), (1, "0-1")]
    # and it trains, from the shared trunk, reading the appended shards
    said(project, "run", "variant", "--size", "full")
    assert "ok  ledger" in said(project, "verify", "variant", "--size", "full")
    # a second time there is nothing to append
    said(project, "prepare", "variant", "--size", "full", "--append", "--source", "code")
    texts = prepared_text.PreparedText.open(home, "variant", "full")
    again = texts.manifest("code")
    assert again is not None
    assert again.digest == now.digest


def test_appending_refuses_files_that_changed(project: Path) -> None:
    (project / "texts/code/000.txt").write_text("something else")
    error = said(project, "prepare", "variant", "--size", "full", "--append", "--source", "code", check=False)
    assert "`000.txt` of `code` is another file since it was prepared" in error
    assert "hint: appending adds files and changes none" in error


def test_the_edit_of_a_stage_that_lineages_share_is_shown_once(prepared: Path) -> None:
    answer = asked(prepared, "trunk", "variant", "--source", "prose", "--shard", "0")
    first, second = answer["edits"]
    assert (first["curriculum"], second["curriculum"]) == ("trunk", "variant")
    assert first["file"] == second["file"]
    text = said(prepared, "trace", "trunk", "variant", "--source", "prose", "--shard", "0", "--size", "full")
    assert text.count(f"without it, in {first['file']}:") == 1
    assert text.count(first["yaml"]) == 1


@pytest.mark.promise("`batch` shows the text of a step, with `--full-text` all of it")
def test_all_of_a_window_s_text_is_shown_with_full_text(prepared: Path) -> None:
    words = ("batch", "variant", "--step", "30", "--size", "full")
    full, part = (json.loads(said(prepared, *words, option, "--json")) for option in ("--full-text", "--text"))
    texts = [slot["text"] for slot in full["slots"]]
    project = Project(prepared)
    opened = prepared_text.PreparedText.open(project, "variant", "full")
    assert opened.loaded_tokenizer is not None
    assert {len(opened.loaded_tokenizer.encode(text)) for text in texts} >= {33}  # 32 and the last token to predict
    assert all(text.startswith(slot["text"]) for text, slot in zip(texts, part["slots"], strict=True))
    printed = said(prepared, *words, "--full-text")
    assert all(repr(text)[1:-1] in printed for text in texts)
    assert "…" not in printed
    assert batch_lines_cut(full) > 0


def batch_lines_cut(listing: dict[str, Any]) -> int:
    from curriculum.cli.view.batch import batch_lines

    return sum(line.endswith("…") for line in batch_lines(listing, 60))
