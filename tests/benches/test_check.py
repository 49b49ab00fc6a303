"""`make bench-check`: a slowdown put in on purpose is caught and named, an unchanged program passes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import assets.batches
from benches import annotate, storage, train_step, triplets
from benches.check import BENCHES, RESULT, Recorded, main, read_record, recorded, regressions

ROOT = Path(__file__).parents[2]
PLANNER = "seconds of the planner over a loop over rows"
DECODING = "seconds of decoding, ours over OpenCV alone"

SLOW = """
import sys
import assets.planner
from benches.check import main

planned = assets.planner.Planner.plan

def slowly(*given):
    sum(range(2_000_000))  # work, not sleep: as much longer on a busy machine as all else
    return planned(*given)

assets.planner.Planner.plan = slowly
sys.exit(main(sys.argv[1:]))
"""


def test_a_slowdown_fails_the_check_and_an_unchanged_program_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "quick.json"
    asked = ["planning", "--repetitions", "1", "--result", str(record)]
    assert main([*asked, "--record"]) == 0
    told = json.loads(record.read_text())
    assert len(told["ratios"]["planning"][PLANNER]) == 1
    assert {"command", "date", "machine", "versions"} <= told.keys()
    again = [*asked, "--noise", "1.5"]  # other tests run beside this one
    assert main(again) == 0
    assert "no ratio is worse" in capsys.readouterr().out
    slow = subprocess.run([sys.executable, "-c", SLOW, *again], cwd=ROOT, capture_output=True, text=True)
    assert slow.returncode == 1, slow.stderr
    assert f"planning: {PLANNER}: " in slow.stdout.split("beyond noise:")[1]
    assert "measuring again" in slow.stdout


def test_slow_decoding_is_beyond_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeat = annotate.quick(tmp_path)
    before = recorded({name: [value] for name, value in repeat().items()})
    decode = assets.batches.decode_upright

    def slowly(data: bytes) -> object:
        time.sleep(0.1)
        return decode(data)

    monkeypatch.setattr(assets.batches, "decode_upright", slowly)
    after = recorded({name: [value] for name, value in repeat().items()})
    worse = list(regressions("annotate", before, after, noise=3))  # other tests run beside this one
    assert [line.split(": ")[1] for line in worse] == [DECODING]


@pytest.mark.parametrize("bench", [storage, train_step, triplets])
def test_the_other_short_forms_give_ratios(bench: object, tmp_path: Path) -> None:
    found = bench.quick(tmp_path)()  # type: ignore[attr-defined]  # modules with this one function
    assert found
    for name, value in found.items():
        assert name.split()[0] in ("seconds", "bytes")
        assert 0 < value < 1.5, name


def test_noise_is_the_spread_but_a_share_at_least() -> None:
    wide, narrow = Recorded("seconds", (1.0, 1.2, 1.3, 1.4, 9.0)), Recorded("seconds", (1.0, 1.0, 1.01))
    assert wide.limit() == pytest.approx(1.3 + 2 * 0.2)
    assert narrow.limit() == pytest.approx(1.25)
    assert narrow.limit(noise=1) == pytest.approx(2.0)
    size = Recorded("bytes", (1.0, 1.0))
    assert size.limit(noise=1) == pytest.approx(1.05)
    before = {"seconds a": narrow, "seconds b": narrow, "seconds c": narrow}
    now = {"seconds a": Recorded("seconds", (1.3,)), "seconds b": Recorded("seconds", (1.2,)), "bytes": size}
    told = list(regressions("bench", before, now))
    assert told == [
        "bench: seconds c: recorded, and not measured any more",
        "bench: seconds a: 1 before, 1.3 now, limit 1.25",
        "bench: bytes: measured, and not in the record; run `python -m benches.check --record`",
    ]


def test_the_committed_record_holds_every_bench(tmp_path: Path) -> None:
    ratios, machine = read_record(RESULT)
    assert set(ratios) == set(BENCHES)
    assert machine["cores"] >= 1
    with pytest.raises(SystemExit, match="--record"):
        read_record(tmp_path / "none.json")
    with pytest.raises(SystemExit):
        main(["nothing"])
