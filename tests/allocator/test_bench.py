"""The benchmark runs end to end and never overwrites a record."""

import json

import pytest

from allocator.bench.__main__ import main
from allocator.bench.report import markdown
from allocator.extras import optional


def test_a_small_run_writes_record_table_and_picture(tmp_path):
    out = main(
        ["--out", str(tmp_path / "run"), "--tasks", "wine", "cn-h1", "--seeds", "2", "--rounds", "12", "--no-speed"]
    )
    record = json.loads((out / "results.json").read_text())
    assert set(record["tasks"]) == {"wine", "cn-h1"}
    found = record["tasks"]["wine"]["linucb alpha .25"]
    assert len(found["regret"]) == 2 and found["regret"][0] + found["reward"][0] == pytest.approx(12)
    assert found["curves"][1][-1] == pytest.approx(found["regret"][1])
    assert "linucb alpha .25" in (out / "results.md").read_text() and (out / "regret.png").stat().st_size > 5000
    assert markdown(record) == (out / "results.md").read_text()
    with pytest.raises(SystemExit):
        main(["--out", str(out), "--tasks", "wine"])


def test_missing_extras_say_what_to_install():
    with pytest.raises(ImportError, match="pip install no-such-library"):
        optional("no_such_library", "no-such-library")
