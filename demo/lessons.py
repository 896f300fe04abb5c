"""Learning in private: every visitor teaches a copy of the policy, and nobody else's changes."""

from __future__ import annotations

import io
import random
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from allocator import Policy, make_policy
from arr_coc import reference
from arr_coc.asking.models import REFERENCE
from arr_coc.attending.planners import PolicyPlanner
from arr_coc.config import ArrCocConfig
from arr_coc.learning.loop import learn
from arr_coc.learning.rewards import make_reward
from eval.methods import make_method
from eval.model.bench import Bench

from .gallery import PAGES
from .host import LEARNED, MAX_NEW_TOKENS, TAUGHT, Answered, Host, Settings, Taught

BATCH = 8
"""Questions between two reports of a lesson."""
STEP = 2
"""Questions answered in one go; other visitors get their turn in between, and this long they may have to wait."""
STARTS = {"prior": ArrCocConfig().policy, "learned": LEARNED}
"""Where a pupil starts: from the score heuristic, or from what was learned already."""


@dataclass(frozen=True)
class Trial:
    """One explored answer that waits for its reward."""

    answered: Answered
    truth: str


@dataclass(frozen=True)
class Pupil:
    """What one visitor's copy of the policy has learned; replaced, never changed in place.

    Attributes
    ----------
    model
        Name of the model whose policy it is.
    start
        Key of `STARTS`.
    price
        Reward units that a full-detail image costs.
    seed
        Of the questions and of the exploration.
    state
        State of the policy; ``None`` before the first lesson.
    log
        One record per episode: those of `arr_coc.learn`, with the ``net`` reward (tokens charged), the ``regret``
        against the evidence allocation, and ``by``: "lesson" or "hand".
    trial
        What waits for a thumb.
    """

    model: str = REFERENCE
    start: str = "prior"
    price: float = 0.2
    seed: int = 0
    state: dict[str, Any] | None = None
    log: tuple[dict[str, Any], ...] = ()
    trial: Trial | None = None
    tried: int = 0
    batches: int = 0

    @property
    def settings(self) -> Settings:
        """How its questions are asked while it has learned nothing."""
        return Settings(policy=STARTS[self.start], price=self.price)

    @property
    def taught(self) -> Taught | None:
        """What it has learned, for other questions to be answered by; ``None`` before the first lesson."""
        return None if self.state is None else Taught(STARTS[self.start], self.price, self.state)


def lesson(host: Host, pupil: Pupil, episodes: int) -> Iterator[Pupil]:
    """Teach with the rewards of answers that are known; gives the pupil after every batch.

    Parameters
    ----------
    host
        Whose model answers.
    pupil
        Who learns.
    episodes
        Questions, rounded up to whole batches.
    """
    for _ in range(-(-episodes // BATCH)):
        samples = _samples(host, BATCH, 1000 * pupil.seed + pupil.batches)
        for at in range(0, BATCH, STEP):
            pupil = _step(host, pupil, samples[at : at + STEP])
        pupil = replace(pupil, batches=pupil.batches + 1)
        yield pupil


def _samples(host: Host, count: int, seed: int) -> list[dict[str, Any]]:
    """Questions of the world that the model was made for; signs, which any model can look at, where it has none."""
    world = host.world if host.world == PAGES else REFERENCE
    return list(reference.generate(count, seed=seed, split="learn", world=world))


def _step(host: Host, pupil: Pupil, samples: list[dict[str, Any]]) -> Pupil:
    """Learn from a few questions at once; whoever has a question of their own goes first."""
    with host.wrapped(host.given(pupil.settings), patient=True) as arr:
        planner = arr.planner
        if not isinstance(planner, PolicyPlanner):
            raise TypeError(f"the policy {pupil.settings.policy!r} does not learn; start from another one")
        _resume(planner.policy, pupil)
        records = learn(arr, samples, episodes=len(samples), batch_size=len(samples), progress=False)
        state = planner.policy.state_dict()
        best = _evidence(Bench(arr, make_reward("vqa_accuracy"), MAX_NEW_TOKENS), samples)
    first = len(pupil.log)
    done = [_entry(pupil, first + i, r, net) for i, (r, net) in enumerate(zip(records, best, strict=True))]
    return replace(pupil, state=state, log=(*pupil.log, *done), trial=None)


def saved(host: Host, pupil: Pupil) -> bytes:
    """What a pupil has learned, as the zipped folder that ``ArrCoc.save_pretrained`` writes and ``--policy`` takes.

    Raises
    ------
    ValueError
        If it has learned nothing yet.
    """
    if pupil.state is None:
        raise ValueError("nothing was learned yet, so there is no policy to save; teach it first")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        with host.wrapped(host.given(pupil.settings)) as arr:
            _resume(arr.planner.policy, pupil)
            arr.save_pretrained(folder)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as pack:
            for file in sorted(folder.iterdir()):
                pack.write(file, f"policy/{file.name}")
    return out.getvalue()


def _evidence(bench: Bench, samples: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Reward and share of full detail of the allocation that knows where the evidence is and how fine its print."""
    method = make_method("evidence")
    method.prepare(bench)
    answers = method.answer(bench, samples)
    return [
        (bench.reward(answer.text, sample), answer.tokens / answer.full_tokens)
        for answer, sample in zip(answers, samples, strict=True)
    ]


def _entry(pupil: Pupil, number: int, record: dict[str, Any], best: tuple[float, float]) -> dict[str, Any]:
    net = record["reward"] - pupil.price * record["tokens"] / record["full_tokens"]
    regret = best[0] - pupil.price * best[1] - net
    return {**record, "episode": number, "net": net, "regret": regret, "by": "lesson"}


def try_one(host: Host, pupil: Pupil) -> Pupil:
    """Answer a fresh question with an explored allocation, and wait for a thumb."""
    rng = random.Random(f"{pupil.seed}/{pupil.tried}")
    (sample,) = _samples(host, 1, rng.randrange(10**6))
    settings = pupil.settings if pupil.state is None else replace(pupil.settings, policy=TAUGHT)
    answered = host.ask(sample["image"], sample["question"], settings, taught=pupil.taught, explore=True)
    return replace(pupil, trial=Trial(answered, sample["answer"]), tried=pupil.tried + 1)


def thumb(host: Host, pupil: Pupil, reward: float) -> Pupil:
    """Learn from a visitor's own judgement of the last trial.

    Raises
    ------
    ValueError
        If no trial waits.
    """
    if pupil.trial is None or pupil.trial.answered.decision is None:
        raise ValueError("nothing waits for your judgement; ask for a question first")
    answered = pupil.trial.answered
    if pupil.state is None:
        with host.wrapped(host.given(pupil.settings)) as arr:
            policy = arr.planner.policy
            _resume(policy, pupil)
    else:
        policy = make_policy(pupil.state["policy"], **pupil.state["config"])
        policy.load_state_dict(pupil.state)
    policy.update(answered.decision, reward)
    allocation = answered.allocation
    net = reward - pupil.price * allocation.tokens / allocation.full_tokens
    entry = {
        "episode": len(pupil.log), "question": answered.question, "prediction": answered.answer, "reward": reward,
        "tokens": allocation.tokens, "full_tokens": allocation.full_tokens, "budgets": allocation.budgets,
        "price": pupil.price, "kind": "by hand", "net": net, "regret": None, "by": "hand",
    }  # fmt: skip
    return replace(pupil, state=policy.state_dict(), log=(*pupil.log, entry), trial=None)


def _resume(policy: Policy, pupil: Pupil) -> None:
    """The pupil's own state, or at the first lesson a generator of its own."""
    if pupil.state is not None:
        policy.load_state_dict(pupil.state)
    else:
        policy.generator.bit_generator.state = np.random.default_rng(pupil.seed).bit_generator.state
