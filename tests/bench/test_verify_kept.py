"""What `equipoise recommend --evidence` keeps of a list in pages is what `equipoise verify` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.verify.command import command as verify
from server.commands.recommend import command as recommend
from strategies.live import LiveServer


def ask(live: LiveServer, folder: Path, *flags: str) -> Result:
    asked = ["--target", live.target, "--history", "item-003@2017-07-01", "--as-of", "2017-07-14",
             "--count", "12", "--page-size", "5", "--timeout-s", "20", "--evidence", str(folder)]  # fmt: skip
    return CliRunner().invoke(recommend, [*asked, *flags])


def token(path: Path) -> str:
    told: str = json.loads(path.read_text())["next_page_token"]
    return told


def test_every_page_is_kept_and_verified(
    live: LiveServer, bundle_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    names = ["response.json", "response-2.json", "response-3.json"]
    assert ask(live, folder).exit_code == 0
    for before in names[:2]:
        done = ask(live, folder, "--page-token", token(folder / before))
        assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "request.json"])
    assert "page_token" not in json.loads((folder / "request.json").read_text())
    flags = ["--request", str(folder / "request.json"), "--bundle", str(bundle_path)]
    flags += ["--policy", str(bundle_path / "policies/tiers.toml")]
    for name in names:
        flags += ["--response", str(folder / name)]
    verified = CliRunner().invoke(verify, flags)
    assert verified.exit_code == 0, verified.output


def test_a_page_asked_for_again_takes_its_place(live: LiveServer, tmp_path: Path) -> None:
    """And a first page begins anew: nothing of another list stays."""
    assert ask(live, tmp_path).exit_code == 0
    second = ("--page-token", token(tmp_path / "response.json"))
    assert ask(live, tmp_path, *second).exit_code == 0
    assert ask(live, tmp_path, *second).exit_code == 0
    assert (tmp_path / "response-2.json").exists()
    assert not (tmp_path / "response-3.json").exists()
    assert ask(live, tmp_path).exit_code == 0
    assert not (tmp_path / "response-2.json").exists()


def test_a_page_of_another_list_is_refused(live: LiveServer, tmp_path: Path) -> None:
    assert ask(live, tmp_path / "one").exit_code == 0
    other = ("--page-token", token(tmp_path / "one" / "response.json"))
    done = ask(live, tmp_path / "other", *other)
    assert (done.exit_code, "from the first on" in done.output) == (2, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("page", [(), ("--page-token", "x")])
def test_what_makes_no_list_has_no_evidence(
    live: LiveServer, tmp_path: Path, page: tuple[str, ...]
) -> None:
    done = ask(live, tmp_path / "none", "--validate-only", *page)
    assert (done.exit_code, "--validate-only" in done.output) == (2, True)
    assert not (tmp_path / "none").exists()
