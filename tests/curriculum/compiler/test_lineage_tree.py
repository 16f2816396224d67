"""What lineages share: how far all of them go through it together, and who leaves a stage before its furthest."""

from __future__ import annotations

import lineages
import pytest

from curriculum.compiler.compile import Compiled, compile_curriculum
from curriculum.compiler.lineage_tree import Trunk, shared_trunk, stage_tree

FILES = {
    "stages/mine.yaml": "from: root\nstages:\n  - {name: a, until: 3000}\n  - {name: b, until: 4000}\n",
    "stages/twin.yaml": "from: mine/a\nstages:\n  - {name: b, until: 4000, mixture: other}\n",
    "stages/late.yaml": "from: mine@2600\nstages:\n  - {name: c, tokens: 400}\n",
    "stages/early.yaml": "from: root@700\nstages:\n  - {name: c, tokens: 400}\n",
    "stages/stranger.yaml": lineages.BASE["stages/root.yaml"].replace("seed: 7", "seed: 8"),
}


def compiled(*names: str) -> list[Compiled]:
    project = lineages.project_of(FILES)
    return [compile_curriculum(project, name, "full") for name in names]


@pytest.mark.parametrize(
    ("names", "stages", "position"),
    [
        (("mine",), ["root/first", "mine/a", "mine/b"], 4000),
        (("mine", "root"), ["root/first"], 2000),
        (("twin", "mine"), ["root/first", "mine/a"], 3000),
        (("mine", "late"), ["root/first", "mine/a"], 2600),
        (("mine", "late", "early"), ["root/first"], 700),
        (("mine", "stranger"), [], 0),
    ],
)
def test_a_trunk_ends_where_the_first_of_its_lineages_leaves_it(
    names: tuple[str, ...], stages: list[str], position: int
) -> None:
    for order in (names, names[::-1]):
        trunk = shared_trunk(compiled(*order))
        assert [stage.name for stage in trunk.stages] == stages
        assert trunk.position == position
        assert trunk == Trunk((), 0) or trunk.stages[-1].stop == position


def test_a_stage_is_left_where_each_lineage_leaves_it_and_early_by_those_that_do_before_the_furthest() -> None:
    for names in (("mine", "early", "late", "root"), ("early", "root", "late", "mine")):
        tree = stage_tree(compiled(*names))
        assert tree["root/first"].left_at == {"mine": 2000, "early": 700, "late": 2000, "root": 2000}
        assert tree["root/first"].leaving() == {"early": 700}
        assert tree["mine/a"].leaving() == {"late": 2600}
        assert (tree["mine/a"].stage.stop, tree["mine/a"].lineage.curriculum) == (3000, "mine")
