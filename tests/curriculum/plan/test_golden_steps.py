"""The first and the last step of every stage of the shipped curricula, pinned: no change of the order goes unnoticed.

A digest here may change with a shipped file (say so in the change) or with ORDER_VERSION, and with nothing else:
no refactoring, platform or numpy version.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project

PROJECT = Project.find(Path(__file__))
SIZES = ("full", "rehearsal")
CURRICULA = ("v1.1", "v1.1-math-code", "v1.1-chinese")

GOLDEN: dict[str, dict[str, str]] = {
    "v1.1 full": {
        "v1.1/basic first 0": "51da0e3c36f892a1",
        "v1.1/basic last 817435": "d7272da2ec1bad52",
        "v1.1/continual first 817436": "9d54759b787962c1",
        "v1.1/continual last 1008169": "e2513d582da789e2",
        "v1.1/cooldown first 1008170": "a4e2c548d4d9a80e",
        "v1.1/cooldown last 1028605": "56c71b81ffe40c31",
    },
    "v1.1 rehearsal": {
        "v1.1/basic first 0": "a4c892358a04e67d",
        "v1.1/basic last 732": "408421f649b1e376",
        "v1.1/continual first 733": "c6f631c460f8fc0d",
        "v1.1/continual last 903": "3594a5ed0b97ff43",
        "v1.1/cooldown first 904": "41469845377cc378",
        "v1.1/cooldown last 922": "25dd6f2b383289fb",
    },
    "v1.1-math-code full": {
        "v1.1/basic first 0": "51da0e3c36f892a1",
        "v1.1/basic last 817435": "d7272da2ec1bad52",
        "v1.1-math-code/continual first 817436": "10ec0cf765dbc0a2",
        "v1.1-math-code/continual last 1008169": "8d4fb905b8e3a8e0",
        "v1.1-math-code/cooldown first 1008170": "a0e1eb82763bb6a7",
        "v1.1-math-code/cooldown last 1028605": "d1c6e35737ae8902",
    },
    "v1.1-math-code rehearsal": {
        "v1.1/basic first 0": "a4c892358a04e67d",
        "v1.1/basic last 732": "408421f649b1e376",
        "v1.1-math-code/continual first 733": "1971b7b197aede90",
        "v1.1-math-code/continual last 903": "ea605b96c5d4c315",
        "v1.1-math-code/cooldown first 904": "4a1ed0ba7c0e08ed",
        "v1.1-math-code/cooldown last 922": "fb0d67b64759ceaa",
    },
    "v1.1-chinese full": {
        "v1.1/basic first 0": "51da0e3c36f892a1",
        "v1.1/basic last 817435": "d7272da2ec1bad52",
        "v1.1-chinese/continual first 817436": "7b86493720a58f94",
        "v1.1-chinese/continual last 1008169": "e34b9a34a53e0bc5",
        "v1.1-chinese/cooldown first 1008170": "e8ba97a940f97ab7",
        "v1.1-chinese/cooldown last 1028605": "d24e165d0bd2d357",
    },
    "v1.1-chinese rehearsal": {
        "v1.1/basic first 0": "a4c892358a04e67d",
        "v1.1/basic last 732": "408421f649b1e376",
        "v1.1-chinese/continual first 733": "ad0c2af34b11c115",
        "v1.1-chinese/continual last 903": "cdf02ec3dad879d4",
        "v1.1-chinese/cooldown first 904": "364ba4703a11d297",
        "v1.1-chinese/cooldown last 922": "cd5eb61e3c22a432",
    },
}

RESEEDED = """\
from: v1.1/basic
stages:
  - {name: continual, until: 1.85T, mixture: math-code, ramp: 6B, data_seed: 2}
  - {name: cooldown, until: 2T, batch: 3584 sequences, data_seed: 3}
"""

GOLDEN_RESEEDED: dict[str, dict[str, str]] = {
    "full": {
        "reseeded/continual first 817436": "c70a5d8469f6e7a0",
        "reseeded/continual last 1008169": "dc6aaa329420c6dc",
        "reseeded/cooldown first 1008170": "74d1196de095f2f3",
        "reseeded/cooldown last 1028605": "f87ef85511369903",
    },
    "rehearsal": {
        "reseeded/continual first 733": "9645107df0ea83f5",
        "reseeded/continual last 903": "ade69143bc30cf9c",
        "reseeded/cooldown first 904": "a32ce9ac99e3e138",
        "reseeded/cooldown last 922": "419524403def3d50",
    },
}


def digests(curriculum: str, size: str, project: Project = PROJECT) -> dict[str, str]:
    """`stage first|last` to a digest of the slots' sources, items, passes and windows, in slot order."""
    found = {}
    for stage in compile_curriculum(project, curriculum, size).stages:
        plan = stage.plan
        for which, step in (("first", plan.first_step), ("last", plan.stop_step - 1)):
            draws = plan.draws(step)
            digest = hashlib.sha256(" ".join(draws.names).encode())
            for column in (draws.source, draws.item, draws.pass_number, draws.window):
                digest.update(np.asarray(column).astype("<i8").tobytes())
            found[f"{stage.name} {which} {step}"] = digest.hexdigest()[:16]
    return found


@pytest.mark.promise("The first and last steps of the shipped curricula never move")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("curriculum", CURRICULA)
def test_the_first_and_last_steps_of_the_shipped_curricula_are_what_they_always_were(
    curriculum: str, size: str
) -> None:
    assert digests(curriculum, size) == GOLDEN[f"{curriculum} {size}"]


@pytest.mark.parametrize("size", SIZES)
def test_the_steps_of_a_data_seed_are_what_they_always_were(size: str) -> None:
    found = digests("reseeded", size, PROJECT.with_draft("reseeded", RESEEDED))
    trunk = {name: digest for name, digest in found.items() if name.startswith("v1.1/")}
    assert trunk.items() <= GOLDEN[f"v1.1 {size}"].items()
    assert {name: digest for name, digest in found.items() if name not in trunk} == GOLDEN_RESEEDED[size]


def test_a_digest_sees_a_single_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    from curriculum.plan import stage as plan_stage

    right = digests("v1.1", "full")
    monkeypatch.setattr(plan_stage, "rotations", lambda seed, steps, batch: np.zeros_like(steps))
    assert not set(right.items()) & set(digests("v1.1", "full").items())
