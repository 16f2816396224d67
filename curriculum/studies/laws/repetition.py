"""What repeated text is worth: the data-constrained scaling law.

Muennighoff et al., *Scaling Data-Constrained Language Models* (arXiv 2305.16264, section 3 and appendix A), with the
constants of the fit that its authors published (huggingface/datablations, Apache-2.0).
"""

from __future__ import annotations

import math

LN_A = 6.255414
LN_B = 7.3049974
LN_E = 0.6254804
EXPONENT = 0.3526596
"""Of parameters and of tokens: the fit has one for both."""
WORTH_OF_TOKENS = 15.387756
"""Repetitions after which a further pass is worth 1/e of a pass over new text."""
WORTH_OF_PARAMETERS = 5.309743


def worth(passes: float) -> float:
    """How many passes over new text `passes` over the same text are worth; up to one pass, `passes` itself."""
    if passes <= 1:
        return passes
    return 1 + WORTH_OF_TOKENS * (1 - math.exp(-(passes - 1) / WORTH_OF_TOKENS))


def marginal_worth(passes: float) -> float:
    """What one more token is worth after `passes`, as a share of a token of new text."""
    return math.exp(-max(passes - 1, 0.0) / WORTH_OF_TOKENS)


def loss(parameters: float, tokens: float, unique: float) -> float:
    """The training loss, nats a token, of `parameters` after `tokens`, of which `unique` were different ones."""
    a, b, e = math.exp(LN_A), math.exp(LN_B), math.exp(LN_E)
    unique = min(unique, tokens)
    balance = (a / b) ** (1 / (2 * EXPONENT))
    unique_parameters = min(unique * balance * balance, parameters)
    effective_tokens = unique * worth(tokens / unique)
    repeated = parameters / unique_parameters - 1
    effective_parameters = unique_parameters * (
        1 + WORTH_OF_PARAMETERS * (1 - math.exp(-repeated / WORTH_OF_PARAMETERS))
    )
    return float(e + a / effective_parameters**EXPONENT + b / effective_tokens**EXPONENT)
