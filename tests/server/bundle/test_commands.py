"""`equipoise bundle`, as a person at a terminal or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.bundle import load_bundle
from server.cli import main
from server.features import N_FEATURES


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["equipoise", "bundle", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    assert isinstance(done.value.code, int)
    return done.value.code


def test_verify_says_what_it_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify", folder) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{load_bundle(folder).manifest.bundle_id} can be served\n")
    assert "18 and no other" in out
    assert "21 scores as recorded" in out
    assert "3 lists as recorded" in out
    assert run(monkeypatch, "verify", folder, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["policies"] == [
        "brands", "categories", "crossed", "none", "over-time", "own-shares", "stacked", "tiers", "varied",
    ]  # fmt: skip
    assert facts["warmup_lists"] == 3


def test_verify_exits_2_with_one_line_that_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "items.json").write_bytes(b"{}")
    assert run(monkeypatch, "verify", folder) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.startswith("Error: bundle refused: items.json: 2 bytes, the manifest says ")
    assert caught.err.count("\n") == 1


def test_show_tells_model_policies_quality_and_sizes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "show", folder) == 0
    out = capsys.readouterr().out
    for told in (
        f"tiny-mlp, reads the {N_FEATURES} features",
        "ndcg_at_20: 0.5",
        f"reads features [batch, n, {N_FEATURES}] float32",
        "gives scores [batch, n] float32",
        "tiers (default): floors",
        "1,3",
    ):
        assert told in out
    assert f"{(folder / 'items.json').stat().st_size:,}  items.json" in out


def test_show_json_is_the_manifest_even_of_a_bundle_that_lost_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.onnx").unlink()
    assert run(monkeypatch, "show", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (folder / "manifest.json").read_bytes()
    )
    assert run(monkeypatch, "show", folder) == 2
    assert "model.onnx: is missing" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["--help"], ["verify", "--help"], ["show", "--help"]])
def test_help_teaches_by_example(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert "equipoise bundle " in out
