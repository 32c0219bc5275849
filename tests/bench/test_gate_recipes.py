"""The recipes for pipelines: they are what their tools read, and their steps decide as the gate does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from strategies.results import budget, invariants, load, quality

pytestmark = pytest.mark.slow
RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
VERDICTS = {"pass": (0.3, 0), "fail": (0.9, 1), "open": (None, 3)}


def read(name: str) -> Any:
    return yaml.safe_load((RECIPES / name).read_text())


@pytest.fixture(params=VERDICTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    """A repository whose results pass, fail, or are not enough."""
    least, code = VERDICTS[request.param]
    line = (
        budget("quality.item_exposure_gini", on="interval", at_most=0.99)
        if least is None
        else budget("quality.ndcg_at_20", at_least=least)
    )
    (tmp_path / "budgets.toml").write_text(f'schema_version = 1\nname = "shop"\n{line}')
    documents = [dict(quality().document), dict(load([1.0]).document), dict(invariants().document)]
    (tmp_path / "measured.json").write_text(json.dumps(documents))
    measure = tmp_path / "measure.sh"
    # Measured after the seal, as the gate asks.
    measure.write_text(
        "#!/bin/sh\nmkdir -p $1/quality $1/load\n"
        f'{sys.executable} -c "import json,time\n'
        "for d, name in zip(json.load(open('measured.json')), "
        "('quality/quality.json', 'load/load.json', 'invariants.json')):\n"
        "    d['made_unix_ms'] = int(time.time() * 1000) + 1\n"
        "    json.dump(d, open('$1/' + name, 'w'))\"\n"
    )
    measure.chmod(0o755)
    program = tmp_path / "bin" / "equipoise"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m server.cli "$@"\n')
    program.chmod(0o755)
    # The branch that is merged into, where the same budgets were agreed on.
    for words in (
        ["init", "-q", "-b", "main"], ["add", "budgets.toml"], ["remote", "add", "origin", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "agreed"],
    ):  # fmt: skip
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path, code


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    environment |= {"GITHUB_BASE_REF": "main", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
    return subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_the_steps_of_github_actions_decide(folder: tuple[Path, int]) -> None:
    where, code = folder
    steps = {
        step["name"]: step
        for step in read("github-actions.yml")["jobs"]["gate"]["steps"]
        if "name" in step
    }
    for name in ("agreed", "seal", "measure"):
        done = shell(steps[name]["run"], where)
        assert done.returncode == 0, done.stderr
    assert shell(steps["decide"]["run"], where).returncode == code
    assert steps["tell"]["if"] == steps["keep"]["if"] == "always()"
    assert shell(steps["tell"]["run"], where).returncode == 0
    assert "quality.json" not in (where / "summary.md").read_text()
    for name in steps["keep"]["with"]["path"].split():
        assert list(where.glob(name)), name
    done = shell("equipoise gate verify record.json", where)
    assert done.returncode == 0, done.stdout


def test_the_job_of_gitlab_decides(folder: tuple[Path, int]) -> None:
    where, code = folder
    job = read("gitlab-ci.yml")["gate"]
    script = "\n".join(line for line in job["script"] if not line.startswith("pip "))
    assert shell(script, where).returncode == code
    assert "allow_failure" not in job, "not enough evidence is no yes"
    for name in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (where / name).exists()


@pytest.mark.parametrize("recipe", ["github", "gitlab"])
def test_budgets_that_a_change_weakens_do_not_pass(recipe: str, folder: tuple[Path, int]) -> None:
    where, _ = folder
    agreed = (where / "budgets.toml").read_text()
    weaker = re.sub(r"at_least = 0\.\d", "at_least = 0.1", agreed)
    weaker = weaker.replace("at_most = 0.99", "at_most = 0.995")
    assert weaker != agreed
    (where / "budgets.toml").write_text(weaker)
    if recipe == "gitlab":
        script = [line for line in read("gitlab-ci.yml")["gate"]["script"] if line[:4] != "pip "]
        assert shell("\n".join(script), where).returncode == 1
        return
    steps = {
        s["name"]: s for s in read("github-actions.yml")["jobs"]["gate"]["steps"] if "name" in s
    }
    for name in ("agreed", "seal", "measure"):
        assert shell(steps[name]["run"], where).returncode == 0
    assert shell(steps["decide"]["run"], where).returncode == 1


def test_the_analysis_of_argo_knows_three_values(folder: tuple[Path, int]) -> None:
    where, code = folder
    shell("./measure.sh results", where)
    decide = "equipoise gate --budgets budgets.toml results/*.json results/*/*.json --json-out verdict.json"
    assert shell(decide, where).returncode == code
    verdict = json.loads((where / "verdict.json").read_text())
    (metric,) = read("argo-analysis.yaml")["spec"]["metrics"]
    assert metric["provider"]["web"]["jsonPath"] == "{$}"
    for wanted, right in ((verdict["bundle_id"], True), ("another", False)):
        held = {
            name: _holds(metric[name].replace("{{args.bundle-id}}", wanted), verdict)
            for name in ("successCondition", "failureCondition")
        }
        assert held["successCondition"] is (right and code == 0)
        assert held["failureCondition"] is (not right or code == 1)


def test_the_canary_of_flagger_is_promoted_rolled_back_or_waits(folder: tuple[Path, int]) -> None:
    """A hook says yes where its command ends with 0, as the load tester answers for it."""
    where, code = folder
    hooks = {
        hook["type"]: hook["metadata"]["cmd"]
        for hook in read("flagger-canary.yaml")["spec"]["analysis"]["webhooks"]
        if hook["metadata"]["type"] == "bash"
    }

    def says_yes(hook: str) -> bool:
        return shell(hooks[hook], where).returncode == 0

    assert says_yes("pre-rollout")
    assert says_yes("confirm-promotion") is (code == 0)
    assert says_yes("rollback") is (code == 1)
    if code == 0:
        hooks["rollback"] = hooks["rollback"].replace("bundle-id shop-", "bundle-id another-")
        assert says_yes("rollback"), "results of another bundle"
        (where / "bin" / "equipoise").write_text("exit 2")
        assert not says_yes("confirm-promotion") | says_yes("rollback"), "bad input is no verdict"


def _holds(condition: str, verdict: dict[str, Any]) -> bool:
    """These conditions read the same as Python, but for how a field is named."""
    for name in ("exit_code", "bundle_id"):
        condition = condition.replace(f"result.{name}", repr(verdict[name]))
    return bool(eval(condition, {"__builtins__": {}}))  # noqa: S307 - our own recipe
