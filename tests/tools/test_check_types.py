"""The check of types: errors may only become fewer, and what became fewer is written down."""

import check_types
import pytest

FOUND = {"pae_zoo/a.py": ["a:1", "a:2"], "pae_zoo/b.py": ["b:1"]}


@pytest.fixture
def baseline(monkeypatch, tmp_path):
    monkeypatch.setattr(check_types, "found_errors", lambda: FOUND)
    monkeypatch.setattr(check_types, "BASELINE", tmp_path / "type_errors.txt")
    return tmp_path / "type_errors.txt"


def test_as_many_as_are_known_pass_and_more_or_fewer_do_not(baseline, capsys):
    for rows, status, words in (("2 pae_zoo/a.py\n1 pae_zoo/b.py", 0, "3 errors"),
                                ("1 pae_zoo/a.py\n1 pae_zoo/b.py", 1, "pae_zoo/a.py: 2 errors of types, 1 are"),
                                ("2 pae_zoo/a.py", 1, "pae_zoo/b.py: 1 errors of types, 0 are"),
                                ("2 pae_zoo/a.py\n1 pae_zoo/b.py\n1 pae_zoo/c.py", 1, "--update")):
        baseline.write_text(rows)
        assert check_types.main([]) == status
        assert words in capsys.readouterr().out


def test_an_update_writes_fewer_and_refuses_more(baseline, capsys):
    assert check_types.main(["--update"]) == 0  # the first one
    assert check_types.read(baseline.read_text()) == {"pae_zoo/a.py": 2, "pae_zoo/b.py": 1}
    baseline.write_text("5 pae_zoo/a.py\n1 pae_zoo/b.py\n1 pae_zoo/c.py")
    assert check_types.main(["--update"]) == 0
    assert check_types.read(baseline.read_text()) == {"pae_zoo/a.py": 2, "pae_zoo/b.py": 1}
    before = "1 pae_zoo/a.py\n"
    baseline.write_text(before)
    assert check_types.main(["--update"]) == 1 and baseline.read_text() == before
