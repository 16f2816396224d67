"""Text that grows: what was planned does not move, and nothing is read twice before everything was read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

import lineages
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.compile import compile_curriculum, compile_resolved
from curriculum.compiler.resolve import resolve
from curriculum.compiler.segments import ExcludedWindows, PreparedState, extend, first_segments, in_force, next_epoch
from curriculum.compiler.sources import PreparedInfo, StartedStage
from curriculum.data.manifest import windows_in
from curriculum.errors import PlanError
from curriculum.plan.source import Segment, SourcePlan
from curriculum.plan.stage import StagePlan

pytestmark = pytest.mark.promise(
    "Appended files move nothing that was planned; no window is read twice before every window was read once"
)

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def states_of(sizes: list[int]) -> list[PreparedState]:
    return [PreparedState(sum(sizes[: at + 1]), f"d{at}") for at in range(len(sizes))]


def windows(segments: tuple[Segment, ...], items: int) -> list[tuple[int, int]]:
    """(pass, window) of the first items."""
    plan = SourcePlan(dataset="d", segments=segments)
    numbers, found = plan.locate(np.arange(items, dtype=np.int64), seed=1, source="s")
    return list(zip(numbers.tolist(), found.tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(SIZES, st.lists(st.integers(0, 200), min_size=3, max_size=3))
def test_a_pass_that_grows_is_finished_with_what_arrived_and_the_next_reads_everything_as_one(
    sizes: list[int], gaps: list[int]
) -> None:
    states = states_of(sizes)
    segments = first_segments(states[:1], None, ())
    arrivals = np.cumsum([0, *gaps])[: len(states) - 1].tolist()
    for at, used in enumerate(arrivals):
        before = segments
        segments = extend(segments, states[: at + 2], used, ())
        assert windows(segments, used) == windows(before, used)  # nothing that was read moves
        now = in_force(before, used)
        end = now.first_item + max(1, -(-(used - now.first_item) // now.windows)) * now.windows
        assert windows(segments, end) == windows(before, end)  # nor the rest of the pass under way
    total = states[-1].windows
    shown = windows(segments, segments[-1].first_item + 3 * total)
    by_pass: dict[int, list[int]] = {}
    for number, window in shown:
        by_pass.setdefault(number, []).append(window)
    for number, read in by_pass.items():
        assert max(Counter(read).values()) == 1, f"pass {number} reads a window twice"
    assert [number for number, _ in shown] == sorted(number for number, _ in shown)
    for number in list(by_pass)[-3:]:
        assert sorted(by_pass[number]) == list(range(total))
    last = segments[-1].pass_number - 1  # the pass in which the last part arrived reads all of it
    assert len(states) == 1 or sorted(by_pass[last]) == list(range(total))


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(0, 150), st.integers(0, 60))
def test_parts_that_are_known_change_nothing_and_growing_together_is_growing_one_by_one(
    sizes: list[int], used: int, more: int
) -> None:
    states = states_of(sizes)
    segments = extend(first_segments(states[:1], None, ()), states, used, ())
    assert extend(segments, states, used + more, ()) == segments
    one_by_one = first_segments(states[:1], None, ())
    for at in range(1, len(states)):
        one_by_one = extend(one_by_one, states[: at + 1], used, ())
    assert one_by_one == segments


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 60), st.integers(0, 130), st.sets(st.integers(0, 5), max_size=3), st.booleans())
def test_after_a_restart_every_window_but_those_left_out_is_read_once_a_pass(
    size: int, used: int, out: set[int], scaled: bool
) -> None:
    holes: ExcludedWindows = tuple((at * 8, 3) for at in sorted(out) if at * 8 + 3 <= size - 1)
    lost = {w for first, count in holes for w in range(first, first + count)}
    take = PreparedState(max(1, size // 3), "d") if scaled else PreparedState(size, "d")
    first = first_segments([take], size if scaled else None, ())
    segments = next_epoch(first, used, [take], size if scaled else None, holes)
    fresh = segments[-1]
    assert fresh.first_item == used
    assert windows(segments, used) == windows(first, used)
    shown = windows(segments, used + 2 * fresh.windows)[used:]
    for number in {number for number, _ in shown}:
        read = [window for at, window in shown if at == number]
        assert len(set(read)) == len(read) == fresh.windows
        assert not lost & set(read)
        assert max(read) < size
    if not scaled:
        assert fresh.windows == size - len(lost)
    for window in range(size):  # and the inverse knows which number is which window's
        chosen = int(fresh.to_indices(np.array([window]))[0])
        spread = fresh.to_windows(np.arange(fresh.windows))
        assert (chosen >= 0) == (window in spread)
        assert fresh.count_before(window) == int((spread < window).sum())
        assert chosen < 0 or int(spread[chosen]) == window


def test_the_passes_shown_grow_with_the_items_and_end_whole() -> None:
    segments = extend(first_segments(states_of([10]), None, ()), states_of([10, 5]), 13, ())
    plan = SourcePlan(dataset="d", segments=segments)
    shown = [plan.epochs(items) for items in range(60)]
    assert all(a < b for a, b in pairwise(shown))
    assert plan.epochs(10) == 1
    assert plan.epochs(25) == 2
    assert plan.epochs(40) == 3
    assert plan.epoch_start(1) == 10
    assert plan.epoch_start(2) == 25


# --- in a lineage ----------------------------------------------------------------------------------------


def grown_facts(sizes: list[int]) -> PreparedInfo:
    states = states_of(sizes)
    return PreparedInfo(
        windows=states[-1].windows, digest=states[-1].digest or "", states=tuple(states), shards=tuple(sizes)
    )


MINE = "from: root\nstages:\n  - {name: a, until: 3000}\n  - {name: b, until: 5000}\n"


def test_appended_text_moves_nothing_of_a_lineage_up_to_the_end_of_the_pass_under_way() -> None:
    project = lineages.project_of({"stages/mine.yaml": MINE})
    old = compile_resolved(resolve(project, "mine", "full"), prepared_info=lambda *_: grown_facts([400])).stages
    new = compile_resolved(resolve(project, "mine", "full"), prepared_info=lambda *_: grown_facts([400, 150])).stages
    for mine, theirs in zip(old, new, strict=True):
        a, b = (plan.draws_at(np.arange(plan.sequences)) for plan in (mine.plan, theirs.plan))
        same = a.item < 400
        assert same.any()
        assert (a.window[same] == b.window[same]).all()
        assert ((b.item < 400) | (b.window >= 400) | (b.item >= 550)).all()
    assert old[0].plan.fingerprint == new[0].plan.fingerprint  # the first stage ends before


def test_text_appended_after_several_passes_comes_in_where_the_last_checkpoint_stands() -> None:
    project = lineages.project_of({"stages/mine.yaml": MINE})
    old = compile_resolved(resolve(project, "mine", "full"), prepared_info=lambda *_: grown_facts([90])).stages
    trained = {stage.setting.stage: stage for stage in old[:2]}

    def started_at(_: str, stage: str) -> StartedStage | None:
        if stage not in trained:
            return None
        plan = trained[stage].plan
        done = plan.sequences if stage == "first" else plan.sequences // 2
        return StartedStage(plan=plan, items=plan.items(done))

    new = compile_resolved(
        resolve(project, "mine", "full"), prepared_info=lambda *_: grown_facts([90, 30]), started_stage=started_at
    ).stages
    assert new[0].plan.fingerprint == old[0].plan.fingerprint
    middle = old[1].plan.start + old[1].plan.steps // 2 * old[1].plan.batch_tokens
    assert new[1].plan.history(middle) == old[1].plan.history(middle)
    seen: dict[str, list[tuple[int, int]]] = {}
    for stage in new:
        draws = stage.plan.draws_at(np.arange(stage.plan.sequences))
        for source, number, window in zip(draws.source, draws.pass_number, draws.window, strict=True):
            seen.setdefault(draws.names[source], []).append((int(number), int(window)))
    for read in seen.values():
        assert len(set(read)) == len(read)
        assert [number for number, _ in read] == sorted(number for number, _ in read)
    assert any(window >= 90 for _, window in seen["a"])


@pytest.mark.parametrize("first", [{"a": 200, "b": 200}, {"a": 51, "b": 18}])  # more than the share, and exactly it
def test_a_size_that_takes_its_share_of_the_text_is_not_moved_by_what_is_appended(first: dict[str, int]) -> None:
    project = lineages.project_of({"sizes.yaml": "full: {}\nsmall: {tokens: 0.5}\n"})
    old = compile_resolved(resolve(project, "root", "small"), prepared_info=lambda name, _: grown_facts([first[name]]))
    new = compile_resolved(
        resolve(project, "root", "small"), prepared_info=lambda name, _: grown_facts([first[name], 100])
    )
    assert old.stages[0].plan.fingerprint == new.stages[0].plan.fingerprint


SHARDS = {"a": (151, 90, 47), "b": (93, 60, 30), "c": (60, 41, 33)}
"""Tokens of each source's shards: what was prepared first, and what was appended then, twice."""

LONG_STAGES = st.lists(
    st.tuples(st.sampled_from([4, 8, 12]), st.sampled_from(["plain", "other"]), st.integers(60, 400)),
    min_size=3,
    max_size=5,
)


def prepared_to(states: int) -> Callable[[str, int], PreparedInfo]:
    """What each source holds after its first `states` preparations, at any length of window."""

    def info(dataset: str, length: int) -> PreparedInfo:
        return grown_facts([windows_in(tokens, length) for tokens in SHARDS[dataset][:states]])

    return info


@pytest.mark.promise(
    "Windows may grow and shrink, several times, across branches and appended text: each stage reads whole passes of "
    "windows of its own length"
)
@settings(max_examples=25, deadline=None)
@given(LONG_STAGES, st.integers(0, 4), st.integers(0, 4), st.integers(1, 99))
def test_windows_that_grow_and_shrink_are_each_read_once_a_pass_in_a_branch_and_as_text_is_appended(
    drawn: list[tuple[int, str, int]], first_append: int, second_append: int, branch: int
) -> None:
    lines, until, length = [], 400, 4
    for number, (own, mixture, tokens) in enumerate(drawn):
        until += tokens + own * 5
        restart = f", sequence_length: {own}, batch: 5 sequences, positions: restart" if own != length else ""
        lines.append(f"  - {{name: s{number}, until: {until} tokens, mixture: {mixture}{restart}}}")
        length = own
    at = 20 + branch * 3  # in the middle of the root's first stage
    project = lineages.project_of({"stages/mine.yaml": f"from: root@{at}\nstages:\n" + "\n".join(lines) + "\n"})
    started: dict[str, StartedStage] = {}
    for states, stages_begun in enumerate((*sorted((first_append, second_append)), len(drawn)), 1):
        begun = dict(started)
        stages = compile_resolved(
            resolve(project, "mine", "full"),
            prepared_info=prepared_to(states),
            started_stage=lambda _, stage, begun=begun: begun.get(stage),
        ).stages
        seen: dict[tuple[str, int], set[int]] = {}
        for stage in stages:
            plan, read = stage.plan, (stage.stop - stage.plan.start) // stage.plan.sequence_length
            draws = plan.draws_at(np.arange(read))
            for source, number, window in zip(draws.source, draws.pass_number, draws.window, strict=True):
                windows_of_pass = seen.setdefault((draws.names[source], int(number)), set())
                assert int(window) not in windows_of_pass
                windows_of_pass.add(int(window))
            for name, source_plan in plan.sources.items():
                total = prepared_to(states)(name, plan.sequence_length).windows
                assert all(s.stop_window <= total for s in source_plan.segments_from(plan.items(0).get(name, 0)))
                assert not (draws.source == draws.names.index(name)).any() or (
                    draws.window[draws.source == draws.names.index(name)].max() < total
                )
            if stage.setting.stage in begun:
                old = begun[stage.setting.stage].plan
                done = min(read, old.sequences) // 2
                assert (plan.draws_at(np.arange(done)).window == old.draws_at(np.arange(done)).window).all()
        for stage in stages[: stages_begun + 1]:
            done = (stage.stop - stage.plan.start) // stage.plan.sequence_length
            done = done if stage is not stages[min(stages_begun, len(stages) - 1)] else done // 2
            started[stage.setting.stage] = StartedStage(plan=stage.plan, items=stage.plan.items(done))


def test_text_appended_where_longer_windows_begin_is_read_in_their_first_pass() -> None:
    longer = "sequence_length: 8, batch: 5 sequences, positions: restart"
    grow = f"  - {{name: two, until: 900 tokens, mixture: plain, {longer}}}\n"
    more = "  - {name: three, until: 4000 tokens, mixture: other}\n"
    root = lineages.BASE["stages/root.yaml"].replace("until: 2000", "until: 400").replace("plain", "other")
    project = lineages.project_of({"stages/root.yaml": root + grow + more})
    old = compile_resolved(resolve(project, "root", "full"), prepared_info=prepared_to(1)).stages
    begun = {s.setting.stage: StartedStage(plan=s.plan, items=s.plan.items(s.plan.sequences)) for s in old[:2]}
    new = compile_resolved(
        resolve(project, "root", "full"), prepared_info=prepared_to(2), started_stage=lambda _, stage: begun.get(stage)
    ).stages
    unread = new[2].plan.sources["c"]  # stage `two` does not read it: its pass of longer windows has not begun
    used = new[2].plan.items(0)["c"]
    assert [(s.first_item - used, s.windows, s.first_window) for s in unread.segments_from(used)] == [
        (0, windows_in(60, 8), 0),
        (windows_in(60, 8), windows_in(41, 8), windows_in(60, 8)),
        (windows_in(60, 8) + windows_in(41, 8), windows_in(60, 8) + windows_in(41, 8), 0),
    ]


LEFT_OUT = """\
from: root
stages:
  - {name: a, until: 3000, leave_out: [{source: a, shard: 1, why: garbled}]}
  - {name: b, until: 5000, positions: restart}
"""


def test_a_shard_left_out_is_read_no_more_also_after_a_restart() -> None:
    project = lineages.project_of({"stages/mine.yaml": LEFT_OUT})
    facts = PreparedInfo(windows=60, digest="d", shards=(20, 15, 25))
    stages = compile_resolved(resolve(project, "mine", "full"), prepared_info=lambda *_: facts).stages
    for stage in stages[1:]:
        draws = stage.plan.draws_at(np.arange(stage.plan.sequences))
        mine = draws.window[draws.source == draws.names.index("a")]
        assert not ((mine >= 20) & (mine < 35)).any()
        assert set(mine.tolist()) == {*range(20), *range(35, 60)}
    assert stages[1].events == ("leaves out shard 1 of a: garbled",)


def test_a_shard_of_unprepared_text_is_left_out_later_and_the_plan_says_so() -> None:
    project = lineages.project_of({"stages/mine.yaml": LEFT_OUT})
    stages = compile_curriculum(project, "mine", "full").stages
    assert stages[1].notes == ("shard 1 of `a` is left out once the source is prepared",)
    assert stages[2].notes == stages[1].notes


@pytest.mark.parametrize(
    ("entry", "facts", "says"),
    [
        ("{source: a, shard: 3}", PreparedInfo(windows=60, digest="d", shards=(20, 15, 25)), "has no shard 3"),
        ("{source: z, shard: 0}", PreparedInfo(windows=60, digest="d", shards=(20, 40)), "does not read"),
        ("{source: a, shard: 0}", PreparedInfo(windows=60, digest="d", shards=(60,)), "leaves nothing"),
    ],
)
def test_a_shard_that_cannot_be_left_out_is_refused(entry: str, facts: PreparedInfo, says: str) -> None:
    project = lineages.project_of(
        {"stages/mine.yaml": f"from: root\nstages:\n  - {{name: a, until: 3000, leave_out: [{entry}]}}\n"}
    )
    with pytest.raises(PlanError, match=says):
        compile_resolved(resolve(project, "mine", "full"), prepared_info=lambda *_: facts)


def boundaries(segments: Iterable[Segment]) -> list[tuple[int, int]]:
    return [(segment.first_item, segment.pass_number) for segment in segments]


def test_a_restart_begins_the_pass_after_the_one_in_force_and_replaces_one_that_nothing_was_read_of() -> None:
    states = states_of([10])
    restarted = next_epoch(first_segments(states, None, ()), 4, states, None, ())
    assert boundaries(restarted) == [(0, 0), (4, 1)]
    assert boundaries(next_epoch(restarted, 25, states, None, ())) == [(0, 0), (4, 1), (25, 4)]
    assert boundaries(next_epoch(restarted, 4, states, None, ())) == [(0, 0), (4, 1)]
    unprepared = states_of([0])
    assert boundaries(next_epoch(first_segments(unprepared, None, ()), 0, unprepared, None, ())) == [(0, 0)]


def test_appended_text_is_a_segment_of_its_own_behind_the_pass_in_force() -> None:
    states = states_of([10, 5])
    restarted = next_epoch(first_segments(states[:1], None, ()), 4, states[:1], None, ())
    segments = extend(restarted, states, 22, ((2, 3), (10, 1), (13, 2)))
    assert boundaries(segments) == [(0, 0), (4, 1), (24, 2), (26, 3)]
    appended, union = segments[2:]
    assert (appended.name, appended.digest, appended.first_window) == ("1", "d1", 10)
    assert (appended.windows, appended.without) == (2, ((10, 1), (13, 2)))
    assert (union.name, union.digest, union.windows) == ("0-1", "d1", 9)
    assert union.without == ((2, 3), (10, 1), (13, 2))


def test_a_restart_where_appended_text_would_begin_starts_the_next_pass() -> None:
    states = states_of([10, 5])
    grown = extend(first_segments(states[:1], None, ()), states, 7, ())
    assert boundaries(grown) == [(0, 0), (10, 0), (15, 1)]
    assert boundaries(next_epoch(grown, 10, states, None, ())) == [(0, 0), (10, 1)]


def test_each_appended_part_has_the_digest_of_the_text_that_it_came_with() -> None:
    segments = first_segments(states_of([10, 5, 3, 2]), None, ())
    assert [segment.digest for segment in segments] == ["d0", "d1", "d2", "d3", "d3"]


def test_a_size_s_share_is_no_more_than_what_left_out_shards_leave() -> None:
    for left_out, windows in (((0, 5),), 50), (((0, 20),), 40):
        (segment,) = first_segments([PreparedState(50, "d")], 60, left_out)
        assert (segment.windows, segment.out_of) == (windows, 60 - left_out[0][1])


@pytest.mark.parametrize("edit", ["positions: restart", "leave_out: [{source: a, shard: 0}]"])
def test_an_edit_of_what_a_stage_that_began_reads_is_seen_in_its_plan(edit: str) -> None:
    facts = PreparedInfo(windows=60, digest="d", states=(PreparedState(60, "d"),), shards=(20, 40))

    def stages(extra: str, started: dict[str, StartedStage]) -> list[StagePlan]:
        mine = f"from: root\nstages:\n  - {{name: a, until: 3000{extra}}}\n"
        project = lineages.project_of({"stages/mine.yaml": mine})
        lineage = compile_resolved(
            resolve(project, "mine", "full"),
            prepared_info=lambda *_: facts,
            started_stage=lambda _, stage: started.get(stage),
        )
        return [stage.plan for stage in lineage.stages]

    began = stages("", {})
    started = {
        name: StartedStage(plan=plan, items=plan.items(plan.sequences // 2))
        for name, plan in zip(("first", "a"), began, strict=True)
    }
    same, edited = stages("", started), stages(f", {edit}", started)
    assert [plan.fingerprint for plan in same] == [plan.fingerprint for plan in began]
    assert edited[0].fingerprint == began[0].fingerprint
    assert edited[1].fingerprint != began[1].fingerprint
