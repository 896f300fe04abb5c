"""Parts of one's own are named from YAML, the command line and an installed package, without a change here."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

import arr_coc.reference
from allocator import registry
from allocator.registry import load_installed_plugins, load_plugins
from arr_coc import ArrCocConfig
from arr_coc.attending.planners import make_planner
from arr_coc.cli import app
from arr_coc.families import known_families
from arr_coc.knowing import base as scorers
from arr_coc.knowing import make_scorer
from arr_coc.learning import rewards
from arr_coc.learning.rewards import make_reward, register_reward
from arr_coc.learning.settings import read_settings
from eval.cli import app as eval_app
from eval.methods import base as methods

CODE = '''
import torch
from dataclasses import dataclass
from allocator import register_policy
from allocator.policies.full_bandit.thompson import Thompson
from arr_coc.knowing import Scorer, register_scorer
from arr_coc.learning.rewards import register_reward
from arr_coc.families import register_family, family_for, known_families
from eval.methods import register_method
from eval.methods.fixed import Uniform

class Last(Scorer):
    name, reads_question = "last", True

    def score(self, scene):
        return torch.tensor([0.0] * (len(scene.patches) - 1) + [0.9])

register_scorer("last", Last)
register_reward("short", lambda answer, sample: 1.0 if len(answer) < 40 else 0.0)

@register_policy("mine")
class Mine(Thompson):
    pass

@register_method("floor")
@dataclass(kw_only=True)
class Floor(Uniform):
    """Every patch at the floor."""

    budget: int = 64
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module of somebody else's, and registries that forget it afterwards."""
    monkeypatch.setattr(scorers, "_registered", dict(scorers._registered))
    monkeypatch.setattr(rewards, "_REWARDS", dict(rewards._REWARDS))
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(methods, "_methods", dict(methods._methods))
    file = tmp_path / "their_parts.py"
    file.write_text(CODE)
    yield file
    sys.modules.pop("their_parts", None)


def test_a_settings_file_names_them(plugin, tmp_path):
    (tmp_path / "run.yaml").write_text(f"plugins: [{plugin}]\nwrap: {{policy: mine, scorers: [last]}}\n")
    settings = read_settings(tmp_path / "run.yaml", {"wrap": ("policy", "scorers")})
    planner = make_planner(ArrCocConfig.from_dict(settings["wrap"]))
    assert planner.policy.name == "mine" and planner.contexts.relevance.name == "last"
    assert make_reward("short")("yes", {}) == 1.0 and make_reward("short")("y" * 50, {}) == 0.0
    read_settings(tmp_path / "run.yaml", {"wrap": ("policy", "scorers")})  # once more is no error


def test_the_command_line_names_them(plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a module of the working directory
    for option in (["--plugin", "their_parts"], ["--plugin", "their_parts.py"]):
        shown = CliRunner().invoke(app, [*option, "info", "--json"])
        assert shown.exit_code == 0, shown.output
        facts = json.loads(shown.stdout)
        assert "last" in facts["scorers"] and "mine" in facts["policies"] and "short" in facts["rewards"]
    assert str(tmp_path) not in sys.path


def test_a_learning_run_and_an_evaluation_use_them(plugin, tmp_path, reference, monkeypatch):
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "own.jsonl").write_text(json.dumps({"image": "a.png", "question": "what color ?", "answer": "x"}))
    own = [f"plugins=[{plugin}]", f"task.path={tmp_path / 'own.jsonl'}", "task.reward=short"]
    more = ["wrap.policy=mine", "wrap.scorers=[last, propositional]", "learn.episodes=2", "learn.batch_size=2"]
    done = CliRunner().invoke(app, ["learn", *own, *more, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines] == [1.0, 1.0] and lines[0]["decision"]["policy"] == "mine"
    command = ["run", "configs/eval.yaml", *own, "run.methods=[floor, full]", "run.baselines=[full]", "--dry-run"]
    shown = CliRunner().invoke(eval_app, command)
    assert shown.exit_code == 0 and "floor" in shown.output, shown.output


def test_an_installed_package_is_asked_where_a_name_is_unknown(plugin, monkeypatch):
    asked = []

    def entry_points(group):
        asked.append(group)
        return [SimpleNamespace(name="theirs", value="their_parts", load=lambda: load_plugins([str(plugin)])),
                SimpleNamespace(name="broken", value="gone", load=lambda: __import__("no_such_module"))]  # fmt: skip

    monkeypatch.setattr(registry, "entry_points", entry_points)
    load_installed_plugins.cache_clear()
    make_scorer("propositional")
    assert not asked
    with pytest.warns(UserWarning, match="the plugin 'broken'.*can't be loaded: ModuleNotFoundError"):
        assert make_scorer("last").name == "last"
    with pytest.raises(ValueError, match="Unknown scorer 'lost'. Did you mean 'last'"):
        make_scorer("lost")
    assert asked == ["arr_coc.plugins"] and "qwen2_vl" in known_families()
    load_installed_plugins.cache_clear()


def test_bad_plugins_are_named(tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('out of luck')\n")
    for module, why in (
        (str(tmp_path / "broken.py"), "RuntimeError: out of luck"),
        ("no_such_module_at_all", "No module"),
        (str(tmp_path / "json.py"), "rename the file"),
    ):
        with pytest.raises(ValueError, match=f"can't be loaded.*{why}"):
            load_plugins([module])
    assert "broken" not in sys.modules
    with pytest.raises(TypeError, match="must be a list of modules"):
        load_plugins("module")
    shown = CliRunner().invoke(app, ["--plugin", "no_such_module_at_all", "info"])
    assert shown.exit_code == 2 and "no_such_module_at_all" in shown.stderr and "Traceback" not in shown.output


def test_register_reward(monkeypatch):
    monkeypatch.setattr(rewards, "_REWARDS", dict(rewards._REWARDS))

    def weighed(answer, sample):
        return sample["weight"] if answer in sample["answers"] else 0.0

    register_reward("weighed", weighed)
    register_reward("weighed", weighed)  # the same again is no error
    assert make_reward("weighed")("x", {"answers": ["x"], "weight": 0.5}) == 0.5
    with pytest.raises(ValueError, match="returned 2.0 for 'x'; a reward must be a number in"):
        make_reward("weighed")("x", {"answers": ["x"], "weight": 2.0})
    for name in ("weighed", "anls", "gold_probability"):
        with pytest.raises(ValueError, match="exists already"):
            register_reward(name, lambda answer, sample: 1.0)
    with pytest.raises(TypeError, match="non-empty string"):
        register_reward("", weighed)
    with pytest.raises(TypeError, match="must be a function"):
        register_reward("other", 3)


def test_a_taken_name_is_refused_everywhere():
    from arr_coc.realizing.base import Realizer, register_realizer

    with pytest.raises(ValueError, match="'full' exists already"):
        methods.register_method("full")(type("Mine", (methods.Method,), {}))
    for name in ("pool", "auto", ""):
        with pytest.raises(ValueError, match="taken or empty"):
            register_realizer(type("Mine", (Realizer,), {"name": name}))
