"""Two processes under `accelerate launch`: the numbers of one, and a killed one breaks the run, not the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocator import Decision, Policy, make_policy
from arr_coc.attending.planners import build_policy
from arr_coc.learning.workers import Workers, update_together
from eval.run import run
from tests.distributed.job import BATCH, EPISODES, eval_config, learn, wrapped

ROOT = Path(__file__).parents[2]


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate-cpu.yaml"), "--main_process_port", "0"]
    command += ["-m", "tests.distributed.job", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=570)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed twice, once in each part and once in each process, and finished at the third start."""
    folder = tmp_path_factory.mktemp("two")
    began = time.monotonic()
    first = launch(folder, "eval", 1, 3)
    assert first.returncode != 0 and "SIGKILL" in first.stderr, first.stderr[-3000:]
    assert not (folder / "eval" / "metrics.json").exists()
    second = launch(folder, "learn", 0, 5)  # the one that writes what all share
    assert second.returncode != 0 and "SIGKILL" in second.stderr, second.stderr[-3000:]
    state = json.loads((folder / "learn" / "state.json").read_text())
    assert state["episodes"] == 2 * 2 * BATCH  # two whole rounds were committed, and nothing of the third
    assert time.monotonic() - began < 600  # neither hung until a timeout
    third = launch(folder)
    assert third.returncode == 0, third.stderr[-3000:]
    return folder


def test_metrics_are_those_of_one_process_to_the_digit(folder: Path, reference: Any, tmp_path: Path) -> None:
    with wrapped(*reference) as arr:
        alone = run(eval_config(tmp_path / "one"), arr, progress=False)
    together = json.loads((folder / "eval" / "metrics.json").read_text())
    for metrics in (alone, together):
        for row in metrics["methods"].values():
            row.pop("milliseconds")
        for row in metrics["matched"].values():
            row.pop("at equal time", None)
    assert together == json.loads(json.dumps(alone))
    mine, theirs = lines(tmp_path / "one" / "questions.jsonl"), lines(folder / "eval" / "questions.jsonl")
    for record in [*mine, *theirs]:
        del record["seconds"], record["first"], record["timings"]
    assert theirs == mine and len(mine) == 30
    assert not (folder / "eval" / "workers").exists()


def test_the_posterior_is_that_of_one_process_on_the_same_batches(folder: Path, reference: Any) -> None:
    log = lines(folder / "learn" / "log.jsonl")
    assert [record["episode"] for record in log] == list(range(EPISODES))  # none lost, none twice, despite the kill
    assert len({record["question_id"] for record in log}) == EPISODES
    state = json.loads((folder / "learn" / "state.json").read_text())
    learned = Policy.load(folder / "learn" / state["policy"])
    with wrapped(*reference) as arr:
        alone = build_policy(arr.config, arr.planner.contexts)
    alone.update_many([Decision.from_dict(r["decision"]) for r in log], [r["reward"] for r in log])
    for name in ("gram", "moment", "mean"):
        np.testing.assert_allclose(
            getattr(learned.posterior, name), getattr(alone.posterior, name), rtol=1e-9, atol=1e-12
        )
    assert learned.rounds == alone.rounds == learned.posterior.rounds == EPISODES
    assert len(state["generators"]) == 2 and state["generators"][0] != state["generators"][1]


def test_another_number_of_processes_is_refused(folder: Path, reference: Any) -> None:
    with wrapped(*reference) as arr, pytest.raises(ValueError, match="by 2 processes, not 1"):
        learn(folder / "learn", arr, None)


@pytest.mark.parametrize(
    ("name", "options"),
    [("thompson", {"forgetting": 0.9}), ("neural_mixture", {"train_every": 3, "steps": 3}), ("neural_linear", {})],
)
def test_policies_that_do_not_add_up_learn_from_everybodys_decisions(name: str, options: dict[str, Any]) -> None:
    class Two(Workers):
        """Each rank's call waits for nobody: what both said is known beforehand."""

        def gather(self, value: Any) -> list[Any]:
            said[self.rank] = json.loads(json.dumps(value))
            return [part for part in said if part is not None]

    rng, policies = np.random.default_rng(0), []
    asked = [[(rng.random((3, 2)), rng.random(1)) for _ in range(4)] for _ in range(2)]
    for rank in (0, 1):
        policy = make_policy(name, dim=2, arms=3, covariates=1, **options)
        policy.generator = np.random.default_rng([9, rank])
        policies.append(policy)
    explored = [[policies[r].select(*q, costs=[1, 2, 3]) for q in asked[r]] for r in (0, 1)]
    said: list[Any] = [None, None]
    for rank in (1, 0, 1):  # the first one's call only tells
        copy = policies[rank] if said[rank] is not None or rank == 0 else make_policy(name, **policies[rank].config())
        update_together(copy, explored[rank], [1.0, 0.0, 1.0, 0.5], Two(rank, 2))
    mine, theirs = (policy.state_dict() for policy in policies)
    assert mine["rounds"] == theirs["rounds"] == 8 and mine["generator"] != theirs["generator"]
    assert all(np.array_equal(mine["tensors"][key], theirs["tensors"][key]) for key in mine["tensors"])


def test_one_process_alone_needs_no_launcher() -> None:
    workers = Workers.start()
    assert (workers.rank, workers.size, workers.first) == (0, 1, True)
    assert workers.gather({"a": 1}) == [{"a": 1}]
    workers.wait()
    workers.stop()


LEAVING = """
import sys, torch, torch.distributed as dist
from arr_coc.commands.terminal import clear_errors
@clear_errors
def command():
    dist.init_process_group("gloo", store=dist.FileStore(sys.argv[1], 2), rank=int(sys.argv[2]), world_size=2)
    sys.kept = dist.group.WORLD  # as DTensor's caches keep it
    for _ in range(300):
        dist.all_reduce(torch.ones(300_000), async_op=True)
    dist.destroy_process_group()
command()
"""


def test_a_process_group_that_lives_on_does_not_abort_the_exit(tmp_path: Path) -> None:
    """Exchanges are under way in its threads when the command is done."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen([sys.executable, "-c", LEAVING, str(tmp_path / "store"), str(rank)], env=env)
        for rank in range(2)
    ]
    assert [process.wait(300) for process in started] == [0, 0]
