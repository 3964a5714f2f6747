"""Verifiable-reward tasks as gymnasium environments. Importing this package registers their ids.

It needs only gymnasium, numpy and the standard library. It imports neither torch, Ray and vLLM nor the rest of
`tgpo_ray`, so that other trainers can use it without them.

    env = gymnasium.make("tgpo/Arithmetic-v0", digits=[3, 1])
    prompt, info = env.reset(seed=0, options={"index": 3})
    _, reward, terminated, truncated, info = env.step(response)
"""

from __future__ import annotations

import gymnasium

from .base import Message, Problem, Seconds, SingleTurnEnv, TextEnv, TextSpace
from .boxed import last_boxed
from .multi_turn import MultiTurnEnv
from .options import Options, options_of, takes
from .prompt_options import PromptOptions
from .row_options import RowOptions
from .trl_reward import as_trl_reward, trl_rows
from .verdict import CORRECT, ERROR, OUTCOMES, TIMEOUT, UNPARSABLE, WRONG, Verdict
from .verifiers import VerifierOptions, VerifierPool, close_shared_pool, shared_pool

__all__ = [
    "CORRECT",
    "ERROR",
    "OUTCOMES",
    "REGISTERED",
    "TIMEOUT",
    "UNPARSABLE",
    "WRONG",
    "Message",
    "MultiTurnEnv",
    "Options",
    "Problem",
    "PromptOptions",
    "RowOptions",
    "Seconds",
    "SingleTurnEnv",
    "TextEnv",
    "TextSpace",
    "Verdict",
    "VerifierOptions",
    "VerifierPool",
    "as_trl_reward",
    "close_shared_pool",
    "last_boxed",
    "options_of",
    "shared_pool",
    "takes",
    "trl_rows",
]

REGISTERED = {
    "tgpo/Arithmetic-v0": "tgpo_ray.envs.arithmetic:ArithmeticEnv",
    "tgpo/Code-v0": "tgpo_ray.envs.code_env:CodeEnv",
    "tgpo/Gem-v0": "tgpo_ray.envs.adapters:GemEnv",
    "tgpo/GuessNumber-v0": "tgpo_ray.envs.guess_number:GuessNumberEnv",
    "tgpo/LookupChain-v0": "tgpo_ray.envs.lookup_chain:LookupChainEnv",
    "tgpo/Math-v0": "tgpo_ray.envs.math_env:MathEnv",
    "tgpo/MathTool-v0": "tgpo_ray.envs.math_tool:MathToolEnv",
    "tgpo/MultipleChoice-v0": "tgpo_ray.envs.multiple_choice:MultipleChoiceEnv",
    "tgpo/ReasoningGym-v0": "tgpo_ray.envs.reasoning_gym_env:ReasoningGymEnv",
    "tgpo/RewardFunction-v0": "tgpo_ray.envs.reward_function:RewardFunctionEnv",
    "tgpo/Verifiers-v0": "tgpo_ray.envs.adapters:VerifiersEnv",
}
"""Entry point by id."""

for _id, _entry_point in REGISTERED.items():
    if _id not in gymnasium.registry:  # importlib.reload registers again, which would warn
        gymnasium.register(_id, entry_point=_entry_point)
