"""Promotion and rollback against spoilt rewards, damaged versions, damaged files of the store, and one another."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import arr_coc.reference
from allocator import Policy
from allocator.logged.explore import Exploration, Explorer
from allocator.logged.judge import by_model, judge
from allocator.logged.log import DecisionLog, secret_of
from allocator.logged.rounds import read_rounds
from allocator.logged.trust import Bounded, bounded
from arr_coc.serving import nightly
from arr_coc.serving.nightly import RetrainConfig, retrain
from arr_coc.serving.store import Moved, Store, read_facts, resolve
from arr_coc.wrapping.saving import POLICY, load_planner
from tests.retraining.world import FAIR, GOOD, POOR, WEAK, believing, make_store, truth

from .histories import MODEL, PATCHES, POISONS, Poison, Served, dear, honest, joined, nothing, serve, write

WHOLE = os.environ.get("ARR_COC_HOSTILE") == "all"
HISTORIES, ROUNDS = (50, 16_000) if WHOLE else (4, 8000)
INCUMBENTS = {"poor": POOR, "fair": FAIR, "good": GOOD}


@pytest.fixture(scope="module")
def served() -> dict[str, tuple[Any, Served]]:
    """Per incumbent: its policy, and what it decided."""
    found = {}
    for k, (name, gains) in enumerate(INCUMBENTS.items()):
        policy = believing(*gains)
        found[name] = policy, serve(policy, ROUNDS, "0001", seed=k)
    return found


def promotion(folder: Path, policy: Any, decisions: Served, poison: Poison, seed: int) -> tuple[float | None, str]:
    """What a policy that the default settings promote truly gains, or None, and the reason."""
    store = make_store(folder, policy)
    with pytest.MonkeyPatch.context() as patch:
        if poison.records:
            write(folder / "log", decisions, poison, seed)
        else:
            patch.setattr(nightly, "read_rounds", lambda *more: joined(decisions, poison, seed))
        report = retrain(folder / "log", store, RetrainConfig(model=MODEL))
    gain = None
    if report["promoted"]:
        gain = truth(Policy.load(store.folder(store.current) / POLICY), patches=PATCHES)
        gain -= truth(policy, patches=PATCHES)
    shutil.rmtree(folder)
    return gain, report["reason"]


@pytest.mark.timeout(7200 if WHOLE else 600)
def test_poisoned_histories_promote_nothing_that_is_worse(
    served: dict[str, tuple[Any, Served]], tmp_path: Path
) -> None:
    """By the default margins, at as many rounds as an honest better policy needs (the test below)."""
    gains, poisons = {}, [name for name in POISONS if name != "none"]
    for n in range(HISTORIES):
        poison, name = poisons[n % len(poisons)], list(INCUMBENTS)[(n // len(poisons) + n) % len(INCUMBENTS)]
        gain, _ = promotion(tmp_path / str(n), *served[name], POISONS[poison], seed=n)
        if gain is not None:
            gains[n, poison, name] = round(gain, 4)
    print(f"of {HISTORIES} poisoned histories {len(gains)} promoted, with a true gain of {gains}")
    assert min(gains.values(), default=0.0) >= -0.01, gains


@pytest.mark.timeout(7200 if WHOLE else 600)
def test_honest_histories_promote_what_is_better(served: dict[str, tuple[Any, Served]], tmp_path: Path) -> None:
    """The gate is not simply shut: what is truly better by ten points is promoted in most honest histories."""
    histories = 10 if WHOLE else 1
    found = [
        promotion(tmp_path / str(n), *served["poor"], POISONS["none"], seed=100 + n)[0] for n in range(histories)
    ]
    print(f"of {histories} honest histories: {found}")
    assert 2 * sum(gain is not None and gain > 0.05 for gain in found) >= histories, found


def test_who_picks_what_to_reward_moves_the_estimate_and_not_the_lower_bound(tmp_path: Path) -> None:
    """A tenth of the rounds, all of them explored, promoted a policy that was worse by three points."""
    policy = believing(*GOOD)
    decisions = serve(policy, 5000, "0001", seed=2)
    write(tmp_path, decisions, POISONS["a client that picks"], seed=0)
    rounds = bounded(read_rounds(tmp_path).rounds, 0.1).rounds
    new = believing(9.0, 9.0, 99.0)  # full detail, at any price: what the client pays for
    loss = truth(new, patches=PATCHES) - truth(policy, patches=PATCHES)
    with_all, held = (judge(rounds, policy, new, policy, fewest=fewest).difference for fewest in (None, 200))
    honest = judge([r for r in rounds if r.client != "intruder"], policy, new, policy).difference
    assert with_all.value > honest.value + 0.05 and honest.low < loss < honest.high
    assert held.low <= honest.low + 0.01 and held.low < with_all.low - 0.03 and held.high == with_all.high


def test_the_models_lower_bound_without_one_client_is_that_of_trying_each() -> None:
    policy = believing(*FAIR)
    rounds = joined(serve(policy, 600, "0001", seed=4), Poison(dear, share=0.3), seed=4).rounds
    new, fewest = believing(*GOOD), 300
    counts = Counter(r.client for r in rounds)
    tried = {None: by_model(rounds, None, new, policy).low}
    for client, count in counts.items():
        if len(rounds) - count >= fewest:
            tried[client] = by_model([r for r in rounds if r.client != client], None, new, policy).low
    found = by_model(rounds, None, new, policy, fewest=fewest)
    assert len(tried) > 20 and found.low == pytest.approx(min(tried.values()), abs=1e-9)
    assert found.low < tried[None]


def test_a_client_with_all_rewards_of_the_judged_version_is_bounded(tmp_path: Path) -> None:
    """It had a small share of the log, and nearly all of what judged."""
    policy = believing(*GOOD)
    old, now = (serve(policy, rounds, version, seed=3) for rounds, version in ((3000, "0000"), (900, "0001")))
    store = make_store(tmp_path, policy)
    write(tmp_path / "log", old, Poison(), seed=3)
    write(tmp_path / "log", now, Poison(dear, share=0.9), seed=4)
    judged: list[Any] = []

    class Spy(Exception):
        pass

    def spy(rounds: Any, *more: Any, **options: Any) -> Any:
        judged.extend(rounds)
        raise Spy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nightly, "judge", spy)
        with pytest.raises(Spy):
            retrain(tmp_path / "log", store, RetrainConfig(model=MODEL, fewest=20))
    assert Counter(r.client for r in judged)["intruder"] <= 0.1 * len(judged)


def first(served: tuple[Any, Served], rounds: int = 2400) -> tuple[Any, Served]:
    """The beginning of what was served: enough where nothing is to be promoted."""
    policy, decisions = served
    return policy, Served(decisions.version, decisions.asked[:rounds])


def test_a_broken_source_neither_alarms_nor_teaches(
    served: dict[str, tuple[Any, Served]], tmp_path: Path
) -> None:
    """30 zeros raised the alarm, threw away what was known, and 400 taught that nothing pays."""
    policy, decisions = first(served["good"])
    for zeros in (30, 400):  # at even odds 30 in a row are not impossible enough to be left out
        folder = tmp_path / str(zeros)
        store = make_store(folder, policy)
        write(folder / "log", decisions, Poison(nothing, last=zeros), seed=1)
        report = retrain(folder / "log", store, RetrainConfig())
        assert report["log"]["of a source that says the same for ever"] >= (zeros if zeros > 30 else 0)
        assert not report["drift"]["alarms"] and report["log"]["left out by drift"] == 0
        assert report["log"]["mean reward"] > 0.4
    folder = tmp_path / "all"
    store = make_store(folder, policy)
    write(folder / "log", decisions, Poison(nothing, last=2400), seed=1)
    report = retrain(folder / "log", store, RetrainConfig())
    assert report["promoted"] is None and "says the same for ever" in report["reason"]


def test_nothing_is_judged_on_rewards_without_variance() -> None:
    class Constant:
        reward = 1.0

    same = Bounded([Constant()] * 300, {}, 0, True)
    assert "every reward to judge on is 1" in nightly._unfit(same, 0, same, RetrainConfig())


def test_an_alarm_alone_never_takes_the_prior(served: dict[str, tuple[Any, Served]], tmp_path: Path) -> None:
    """The first version's knowledge weighs less after a fall, and is never gone."""
    policy, decisions = first(served["good"])
    known = believing(*GOOD)
    write(tmp_path / "before", Served("0000", decisions.asked[:600]), Poison(), seed=2)
    before = read_rounds(tmp_path / "before").rounds
    known.update_many([r.decision for r in before], [r.reward for r in before])
    store = make_store(tmp_path, known)

    def falling(x: Any, index: Any, rng: np.random.Generator) -> float:
        return honest(x, index, rng) * float(rng.random() < 0.3)

    write(tmp_path / "log", decisions, Poison(falling, last=1200), seed=3)
    taught: list[Any] = []

    class Spy(Exception):
        pass

    def spy(rounds: Any, incumbent: Any, chosen: Any, new: Any, **options: Any) -> Any:
        taught.append(new)
        raise Spy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nightly, "judge", spy)
        with pytest.raises(Spy):
            retrain(tmp_path / "log", store, RetrainConfig())
    (new,) = taught
    fresh = believing(*GOOD)
    weight = float(new.posterior.gram[-1, -1])  # of the intercept: how many rounds it has seen
    learned = weight - min(600.0, weight / 2)
    assert new.posterior.rounds > 600 and weight > learned > 0
    assert not torch.equal(new.posterior.gram, fresh.posterior.gram)


def test_nobody_outside_knows_which_rounds_judge(tmp_path: Path) -> None:
    """Whoever got an answer knew its id and version, and so whether its reward would judge or teach."""
    log = DecisionLog(tmp_path)
    names = [log.append({"version": "0001"}).result() for _ in range(200)]
    assert secret_of(tmp_path) == b""
    log.pseudonym("10.0.0.1")
    log.close()
    secret = secret_of(tmp_path)
    assert len(secret) == 32
    held = [[nightly._held_out(name, "0001", 0.5, key) for name in names] for key in (b"", secret)]
    assert 60 < sum(a == b for a, b in zip(*held, strict=True)) < 140 and 60 < sum(held[1]) < 140


def test_one_clients_weight_is_bounded(served: dict[str, tuple[Any, Served]], tmp_path: Path) -> None:
    _, decisions = first(served["fair"])
    write(tmp_path, decisions, Poison(POISONS["a flood for cheap"].lie, share=0.6), seed=4)
    rounds = read_rounds(tmp_path).rounds
    counts = Counter(r.client for r in rounds)
    assert counts["intruder"] > 0.5 * len(rounds)
    for share in (0.05, 0.1, 0.3):
        found = bounded(rounds, share)
        left = Counter(r.client for r in found.rounds)
        assert max(left.values()) <= share * len(found.rounds) and found.bound and found.clients == 31
        assert set(found.left_out) >= {"intruder"}
        again = bounded(list(rounds), share)
        assert [r.id for r in again.rounds] == [r.id for r in found.rounds]  # by their ids, not by chance
    assert bounded(rounds, 1.0).rounds == rounds
    few = [r for r in rounds if r.client in ("intruder", "client 1")]
    assert not bounded(few, 0.1).bound  # among two nobody can be bounded, and the report says so


def test_another_models_rewards_are_left_out_or_asked_about(
    served: dict[str, tuple[Any, Served]], tmp_path: Path
) -> None:
    policy, decisions = first(served["fair"])
    store = make_store(tmp_path, policy)
    write(tmp_path / "log", decisions, POISONS["another model"], seed=5)
    with pytest.raises(ValueError, match="several models.*other@2.*--for-model"):
        retrain(tmp_path / "log", store, RetrainConfig())
    report = retrain(tmp_path / "log", store, RetrainConfig(model=MODEL))
    counts = report["log"]
    assert 960 < counts["of other models"] < 1440 and report["model"] == MODEL
    assert counts["learned from"] + counts["judged on"] <= counts["rounds"] - counts["of other models"]


def spoil(folder: Path, **tensors: torch.Tensor) -> None:
    """Change tensors of a saved policy; the file stays a sound one."""
    from allocator.storage import read_state, write_state

    state = read_state(folder / POLICY)
    state["tensors"].update({f"posterior.{name}": value for name, value in tensors.items()})
    write_state(folder / POLICY, state)


def test_a_version_that_cannot_choose_is_never_served(tmp_path: Path, reference: Any) -> None:
    """Each of these loaded, replaced a good version within two seconds, and every question got an error."""
    from arr_coc.serving.policy import Policies

    store = Store.create(tmp_path / "store", arr_coc.reference.policy_path())
    policies = Policies(store.path, Exploration(), *reference)
    size = policies.loaded.planner.policy.posterior.dim

    def version(change: Any) -> str:
        def fill(new: Path) -> None:
            shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True)
            change(new)

        return store.add(fill, {})

    def priced(value: Any) -> Any:
        def change(new: Path) -> None:
            record = json.loads((new / "config.json").read_text())
            record["planner"]["price"] = value
            (new / "config.json").write_text(json.dumps(record))

        return change

    skewed = torch.zeros(size, size, dtype=torch.float64)
    skewed[0, 1] = 1e6
    for change in (
        lambda new: spoil(new, gram=-1e6 * torch.eye(size, dtype=torch.float64)),
        lambda new: spoil(new, gram=skewed),
        lambda new: spoil(new, gram=torch.full((size, size), float("nan"), dtype=torch.float64)),
        lambda new: spoil(new, moment=torch.full((size,), 1e308, dtype=torch.float64)),
        *(priced(value) for value in (float("nan"), -1.0, float("inf"), "x", None, True)),
    ):
        store.point_to(version(change))
        with pytest.raises(ValueError):
            policies.load()
    assert policies.version == "0001"
    store.roll_back("0001")
    policies.load()


def test_a_rehearsal_finds_a_policy_that_only_fails_when_it_chooses() -> None:
    policy = believing(*WEAK)
    Explorer(policy, Exploration()).rehearse((64, 128, 256, 400), 0.001)
    with pytest.raises(ValueError, match="price"):
        Explorer(policy, Exploration()).rehearse((64, 128, 256, 400), float("nan"))
    policy.posterior.gram -= 1e6 * torch.eye(policy.posterior.dim, dtype=torch.float64)
    policy.posterior._forget_caches()
    with pytest.raises(ValueError, match="can't choose"):
        Explorer(policy, Exploration()).rehearse((64, 128, 256, 400), 0.001)


@pytest.mark.parametrize(
    "facts", [b"", b"{", b"[]", b"\xff", b'{"contexts": 3}', b'{"contexts": {"edges": [[2]]}}', b"[" * 99_999]
)
def test_a_damaged_version_json_stops_nothing(
    facts: bytes, served: dict[str, tuple[Any, Served]], tmp_path: Path
) -> None:
    """It ended the following of the store in silence: no rollback was ever seen again."""
    policy, decisions = first(served["fair"])
    store = make_store(tmp_path, policy)
    (store.folder("0001") / "version.json").write_bytes(facts)
    (store.path / "history.jsonl").write_bytes(b"garbage\n{}\n" + (store.path / "history.jsonl").read_bytes())
    assert isinstance(read_facts(store.folder("0001")), dict)
    store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
    store.point_to("0002")
    assert store.roll_back() == "0001" and resolve(store.path).version == "0001"
    write(tmp_path / "log", Served("0001", decisions.asked[:900]), Poison(), seed=6)
    assert retrain(tmp_path / "log", store, RetrainConfig())["reason"]


def test_two_retrains_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    store = make_store(tmp_path, believing(*WEAK))
    names: list[str] = []
    moved: list[Moved] = []

    def promote() -> None:
        name = store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
        names.append(name)
        try:
            store.point_to(name, expected="0001")
        except Moved as error:
            moved.append(error)

    threads = [threading.Thread(target=promote) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == [f"{n:04d}" for n in range(2, 10)] and len(moved) == 7  # one wins, the others are told
    changes = [json.loads(line) for line in (store.path / "history.jsonl").read_text().splitlines()]
    assert changes == [{"from": None, "to": "0001"}, {"from": "0001", "to": store.current}]
    assert "somebody else has moved it" in str(moved[0])


def test_a_promotion_over_another_one_is_reported(
    served: dict[str, tuple[Any, Served]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, decisions = first(served["poor"])
    store = make_store(tmp_path, policy)
    write(tmp_path / "log", decisions, Poison(), seed=7)

    def other(*arguments: Any, **options: Any) -> Any:
        store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
        store.point_to("0002")
        return judge(*arguments, **options)

    monkeypatch.setattr(nightly, "judge", other)
    report = retrain(tmp_path / "log", store, RetrainConfig(margin=9.0, reference_margin=9.0))
    assert report["promoted"] is None and store.current == "0002" and "nothing was promoted" in report["reason"]


def test_the_price_of_a_saved_policy_is_a_price(tmp_path: Path, reference: Any) -> None:
    for price in (-1, float("nan"), "0.1", None, [], True):
        folder = tmp_path / str(price)
        shutil.copytree(arr_coc.reference.policy_path(), folder)
        record = json.loads((folder / "config.json").read_text())
        record["planner"] = {"price": price}
        (folder / "config.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match="price"):
            load_planner(folder, *reference)
