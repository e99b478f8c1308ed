"""What a job's parts tell of it; the rest is tried with the jobs."""

import sys

import pytest

from pipeline import parts


@pytest.mark.parametrize(("fails", "shown"), [(False, "10/10"), (True, "3/10")])
def test_only_the_bar_of_a_job_that_succeeds_comes_to_its_end(capsys, monkeypatch, fails, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = iter([3])
    try:
        with parts.progress(lambda: next(done, 0), 10, "pair", "preprocess"):
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert f" {shown} " in capsys.readouterr().err.rpartition("\r")[2]
