"""The checkpoints that an average is of: how much each counts in whole numbers, and that they can be added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from curriculum.compiler.lineage import AverageMember
from curriculum.compiler.resolve import ResolvedStage
from curriculum.errors import PlanError
from curriculum.plan.stage import MemberCheckpoint, StagePlan


def average_members(
    stage: ResolvedStage,
    members: Sequence[tuple[StagePlan, int, int, bool]],
    model: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
) -> tuple[MemberCheckpoint, ...]:
    """The members as the average's plan has them; PlanError for one of another model or tokenizer than the first's.

    Each of `members` is the plan of its stage, its position in tokens, how much it counts, and whether it is the moving
    average that the checkpoint keeps.
    """
    entries: list[MemberCheckpoint] = []
    for number, (plan, position, weight, ema) in enumerate(members):
        theirs, ours = _shape_of(plan.model), _shape_of(model)
        if differ := [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]:
            raise _unlike(stage, number, f"`{differ[0]}`")
        if dict(plan.tokenizer) != dict(tokenizer):
            raise _unlike(stage, number, "tokenizer")
        entries.append(MemberCheckpoint(fingerprint=plan.history(position), position=position, weight=weight, ema=ema))
    if len({(one.fingerprint, one.position) for one in entries}) < len(entries):
        raise PlanError(
            "two checkpoints of the average are the same",
            place=stage.setting.document.place(("from", "average")),
            hint="name each once, and say with `weights:` how much it counts; a size may bring positions together",
        )
    return tuple(entries)


def whole_weights(average: Sequence[AverageMember]) -> list[int]:
    """How much each member counts, as the smallest whole numbers of those proportions."""
    if not average:
        return []
    common = math.lcm(*(member.weight.denominator for member in average))
    integers = [int(member.weight * common) for member in average]
    divisor = math.gcd(*integers)
    return [weight // divisor for weight in integers]


def _shape_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model without the length of its windows, which its weights do not depend on."""
    return {key: value for key, value in model.items() if key != "max_position_embeddings"}


def _unlike(stage: ResolvedStage, number: int, what: str) -> PlanError:
    first, other = (stage.setting.average[at].address for at in (0, number))
    document = stage.setting.document
    path = ("from", "average", number)
    return PlanError(
        f"`{other}` has another {what} than `{first}`, and their weights cannot be averaged",
        place=document.place(path if path in document else ("from", "average")),
        hint="average checkpoints of one model and tokenizer: branches of one trunk, or runs that differ in a seed; "
        "of a lineage whose rotations change, those of stages behind the change",
    )
