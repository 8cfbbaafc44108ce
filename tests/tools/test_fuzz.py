"""Bad commands and files: what the tool has, and that a case that does not hold is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parent.parent.parent / "tools" / "fuzz" / "run.py"


def test_cases_have_names_of_their_own_and_the_share_is_of_the_long_ones():
    def listed(*flags):
        done = subprocess.run([sys.executable, str(RUN), "--list", *flags], capture_output=True, text=True, check=True)
        return {line.split(":")[0] for line in done.stdout.splitlines()[:-1]}

    every, some = listed(), listed("--share=4")
    assert len(every) > 1000 and some < every and listed("--share=4") == some
    families = {key.split("/")[0] for key in every}
    assert {"npz", "folder", "workdir", "out", "export", "damage", "keras", "huge", "flagfile", "mask"} <= families
    assert {key.split("/")[0] for key in some} == families
    assert "npz/claims-1-TiB" in some and "npz/sound" in every


@pytest.mark.slow
def test_what_holds_is_counted_and_what_does_not_is_told(tmp_path):
    flags = [f"--json={tmp_path / 'all'}", "--only=^(words/(unknown-flag|stray-word)|flagfile/fifo)$"]
    done = subprocess.run([sys.executable, str(RUN), *flags], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "3 cases, 3 held, 0 failed"
    lines = [json.loads(line) for line in (tmp_path / "all").read_text().splitlines()]
    assert {line["key"] for line in lines} == {"words/unknown-flag", "words/stray-word", "flagfile/fifo"}
