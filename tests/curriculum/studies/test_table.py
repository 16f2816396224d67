"""A table of runs: joined by a column, replicates by equal shares, and each fault refused with its place."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from public_runs import STUDIES

from curriculum.config.project import Project
from curriculum.errors import CurriculumError, DataError, PlanError
from curriculum.studies import table, table_question
from curriculum.studies.decide import decide
from curriculum.studies.decision import Keep, Question, Undecidable
from curriculum.studies.table import TableFiles

SHARES = "index,a,b\n1,0.5,0.5\n2,0.25,0.75\n3,0.5,0.5\n"
LOSSES = "index,a,b\n3,1.5,2.5\n1,1.0,2.0\n2,1.2,2.2\n"


def write(folder: Path, shares: str = SHARES, losses: str = LOSSES) -> TableFiles:
    (folder / "shares.csv").write_text(shares)
    (folder / "losses.csv").write_text(losses)
    return TableFiles(folder / "shares.csv", folder / "losses.csv")


def test_rows_are_joined_by_name_and_equal_shares_are_replicates(tmp_path: Path) -> None:
    runs = table.read(write(tmp_path))
    assert runs.sources == ("a", "b")
    assert runs.evidence.arms() == ("run 1", "run 2")
    assert list(runs.evidence.losses("run 1", "a").values()) == [1.0, 1.5]
    assert runs.evidence.settings("run 2") == {"a": 0.25, "b": 0.75}


def test_percent_and_rounded_shares_are_divided_by_their_sum(tmp_path: Path) -> None:
    runs = table.read(write(tmp_path, "index,a,b\n1,50.4,49.9\n2,25,75\n3,0,100\n"))
    for arm in runs.evidence.arms():
        assert sum(float(value) for value in runs.evidence.settings(arm).values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_values_are_separated_by_what_the_header_has_most_of_and_a_fault_is_at_its_own_cell(
    tmp_path: Path, separator: str
) -> None:
    of_commas = table.read(write(tmp_path)).evidence
    shares = SHARES.replace(",", separator)
    assert table.read(write(tmp_path, shares)).evidence == of_commas  # each file has its own separator
    with pytest.raises(CurriculumError) as refused:
        table.read(write(tmp_path, shares.replace("0.75", "0,75")))
    assert refused.value.place is not None
    assert refused.value.place.column == 8
    assert refused.value.hint is not None
    assert "0.75" in refused.value.hint


def test_roles_seeds_and_replicates_are_columns_that_need_not_be_there(tmp_path: Path) -> None:
    shares = "index,role,seed,replicate,a,b\nx,control,2,7,1,0\ny,proposal,3,1,0,1\nz,,1,1,0.5,0.5\n"
    runs = table.read(write(tmp_path, shares, "index,a\nx,1\ny,2\nz,3\n"))
    assert [runs.evidence.role(arm) for arm in ("x", "y", "z")] == ["control", "proposal", "swarm"]
    assert runs.evidence.runs("x") == ((2, 7),)


STUDY = """\
table: {shares: shares.csv, losses: losses.csv}
goal:
  lower: {a: 1}
  keep: {b: before + 0.02}
"""


def of_study(folder: Path, shares: str, losses: str) -> Question:
    write(folder, shares, losses)
    (folder / "studies").mkdir()
    (folder / "stages").mkdir()
    (folder / "mixtures").mkdir()
    (folder / "studies/mine.yaml").write_text(STUDY)
    project = Project(folder)
    return table_question.of_study(project, "mine", *project.study("mine"))[0]


def test_a_limit_may_refer_to_the_row_of_the_branch_point(tmp_path: Path) -> None:
    question = of_study(tmp_path, "index,role,a,b\n1,before,0.5,0.5\n2,,0.25,0.75\n3,swarm,0.5,0.5\n", LOSSES)
    assert question.keep == {"b": Keep("run 1", 0.02)}


def test_a_limit_that_refers_to_no_row_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no row of the table has the role `before`") as refused:
        of_study(tmp_path, SHARES, LOSSES)
    assert refused.value.place is not None
    assert refused.value.place.line == 4


def test_one_file_may_hold_shares_and_losses() -> None:
    file = STUDIES / "trial/arms.csv"
    runs = table.read(TableFiles(file, file, "arm", "weight_*", "loss_*"))
    assert runs.sources == runs.losses == ("slimpajama", "starcoder-python-jupyter", "proof-pile-2")
    assert sum(len(runs.evidence.runs(arm)) for arm in runs.evidence.arms()) == 12


@pytest.mark.parametrize(
    ("shares", "losses", "what", "line"),
    [
        (SHARES, "index,a,b\n1,1,2\n2,1,2\n", "the run `3` has no row in", 4),
        (SHARES, LOSSES + "4,1,2\n", "the run `4` has no row in", 5),
        (SHARES, LOSSES.replace("2.2", "nan"), "`b` of the run is `nan`, which is no finite number", 4),
        (SHARES, LOSSES.replace("2.2", ""), "`b` of the run is empty, which is no finite number", 4),
        (SHARES.replace("0.25", "0.5"), LOSSES, "the shares of the run sum to 1.25, not to 1 or 100", 3),
        (SHARES.replace("0.25", "-0.25"), LOSSES, "the share `a` is -0.25, below 0", 3),
        (SHARES.replace("2,0.25", "1,0.25"), LOSSES, "the run `1` has two rows", 3),
        (SHARES.replace("0.25,0.75", "0.25"), LOSSES, "the row has 2 values, the header 3 names", 3),
        (SHARES.replace("index", "run"), LOSSES, "has no column `index`", 1),
        (SHARES.replace("a,b\n1", "a,a\n1"), LOSSES, "the column `a` is there twice", 1),
        (SHARES, LOSSES.replace("2.2", "0"), "the loss `b` of the run is 0, not above 0", 4),
        (SHARES, LOSSES.replace("2.2", "-1"), "the loss `b` of the run is -1, not above 0", 4),
        (SHARES, LOSSES.replace("2.2", "1e-9"), "the loss `b` of the run is 1e-09, below 1e-06", 4),
        (SHARES, LOSSES.replace("2.2", "2e6"), "the loss `b` of the run is 2e+06, above 1e+06", 4),
        ("", LOSSES, "is empty", None),
        ("index,a,b\n", LOSSES, "has no run", None),
        (SHARES + '"4,0.5', LOSSES, "is no CSV file", 5),
    ],
)
def test_a_faulty_table_is_refused_with_its_place(
    tmp_path: Path, shares: str, losses: str, what: str, line: int | None
) -> None:
    files = write(tmp_path, shares, losses)
    with pytest.raises(CurriculumError) as refused:
        table.read(files)
    assert what in refused.value.what
    place = refused.value.place
    assert (place.line if place else None) == line
    assert "Traceback" not in refused.value.render()


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path)
    files.losses.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CurriculumError, match="is no text"):
        table.read(files)
    files.losses.unlink()
    with pytest.raises(CurriculumError, match="cannot be read: No such file"):
        table.read(files)


def test_a_pattern_that_no_column_has_is_refused_with_the_columns(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(CurriculumError, match=r"no column of .* is `train_\*`"):
        table.read(TableFiles(tmp_path / "shares.csv", tmp_path / "losses.csv", share_columns="train_*"))


@pytest.mark.parametrize(
    ("row", "column"), [('"a, ""b""",0.5,x', 16), ('"a",0.5,x', 9), ('a,"0.5",x', 9), ("a,0.5,x", 7)]
)
def test_the_place_of_a_cell_is_its_own_also_behind_a_quoted_one(tmp_path: Path, row: str, column: int) -> None:
    with pytest.raises(CurriculumError) as refused:
        table.read(write(tmp_path, f"index,a,b\n{row}\n", f"index,b,a\n{row.replace('x', '1')}\n"))
    place = refused.value.place
    assert place is not None
    assert (place.line, place.column) == (2, column)


@pytest.mark.parametrize("role", ["before", "proposal"])
def test_only_runs_of_equal_shares_may_have_a_role_that_one_mixture_has(tmp_path: Path, role: str) -> None:
    shares = f"index,role,a,b\n1,{role},0.5,0.5\n2,,0.25,0.75\n3,{role},0.5,0.5\n"
    assert len(table.read(write(tmp_path, shares)).evidence.runs("run 1")) == 2
    with pytest.raises(CurriculumError, match=f"`3` is a second `{role}`") as refused:
        table.read(write(tmp_path, shares.replace(f"3,{role},0.5,0.5", f"3,{role},0.4,0.6")))
    assert refused.value.place is not None
    assert (refused.value.place.line, refused.value.place.column) == (4, 3)


@pytest.mark.parametrize("losses", [("1e-6", "1e6"), ("1e6", "1e6"), ("1e-6", "1e-6"), ("1e-6", "3")])
@pytest.mark.filterwarnings("error")
def test_the_least_and_the_largest_losses_are_fitted_without_a_warning(tmp_path: Path, losses: tuple[str, str]) -> None:
    shares, table_of = ["index,seed,a,b"], ["index,a"]
    for at in range(12):
        shares.append(f"{at},{1 + at % 2},{at // 2 / 10},{1 - at // 2 / 10}")  # each mixture once on each trunk
        table_of.append(f"{at},{losses[at % 2 if at < 8 else 0]}")
    runs = table.read(write(tmp_path, "\n".join(shares), "\n".join(table_of)))
    asked = table_question.question("extremes", runs, {"a": 1.0}, {}, {})
    with contextlib.suppress(Undecidable):
        decide(replace(asked, resamples=3), runs.evidence)


def test_runs_of_one_mixture_are_said_to_be_one_point(tmp_path: Path) -> None:
    runs = table.read(write(tmp_path, SHARES.replace("0.25,0.75", "0.5,0.5")))
    with pytest.raises(DataError, match=r"the 3 runs of `.*shares.csv` are one point"):
        table_question.question("one", runs, {"a": 1.0}, {}, {})
