"""The command line in this process, for every verb's tests."""

import sys

import pytest

from experiments import cli


@pytest.fixture
def nas(monkeypatch, capsys):
    """Runs ``nas`` in this process: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["nas", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run
