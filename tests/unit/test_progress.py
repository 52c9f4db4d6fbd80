"""The progress bar of sampling: asked for, or in a terminal when it takes long."""

import sys

import pytest
from tools import shared_model

from keras_ddpm.samplers import loop


@pytest.mark.parametrize(
    "progress, is_terminal, patience, is_shown",
    [(None, True, 0, True), (None, True, 99, False), (None, False, 0, False)]
    + [(True, False, 99, True), (False, True, 0, False)],
)
def test_bar(monkeypatch, capsys, progress, is_terminal, patience, is_shown):
    monkeypatch.setattr(loop, "PATIENCE", patience)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    shared_model().generate(2, steps=3, seed=0, progress=progress)
    assert ("3/3" in capsys.readouterr().out) == is_shown
