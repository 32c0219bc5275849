"""Every command in the documents: those of callers and operators run, the long ones parse."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import polars as pl
import pytest

from bench.gate.budgets import parse_budgets
from bench.load.scenario import parse_scenario
from bench.load.schedule import schedule_of
from server.bundle import DataInfo
from server.cli import command
from server.events import Event, SqliteEventStore
from server.fairness import TableGroups, compile_tables, parse_policy
from strategies.bundles import N_ITEMS, tiny_bundle
from strategies.gateways import Gateway, live_gateway
from strategies.live import live_server
from strategies.purchases import START_MS, raw, shop_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = ("large", "medium", "small", "unknown", "National", "Private")
DEMO_MINUTES = ("train", "sweep", "evaluate", "audit", "gate", "cross-validate", "quality")


def commands_of(page: Path, program: str = "equipoise") -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith(f"{program} ")]


CURL = [line for page in PAGES for line in commands_of(page, "curl")]
ALL = [(page.name, line) for page in PAGES for line in commands_of(page)]
RUN = [
    line
    for _, line in ALL
    if line.split()[1] not in DEMO_MINUTES
    and "events load" not in line
    # There is none before the only one; tests/server/service/test_releases_served.py runs it.
    and "bundle rollback" not in line
    and (line.split()[1] not in ("serve", "gateway") or "--show-" in line)
]


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(
            rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        )
    ]


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_every_policy_and_budget_in_a_document_is_read(page: str, text: str) -> None:
    if page == "policies.md":
        policy = parse_policy(text, page)
        tables = {rule.group_table: TableGroups.of(GROUPS) for rule in policy.rules}
        compiled = compile_tables(policy, tables)
        shaped = compiled.calibrations or compiled.amortisation or policy.shaping("diverse")
        assert compiled.has_floors or compiled.has_ceilings or shaped, "it asks for nothing"
    elif page == "load.md":
        assert len(schedule_of(parse_scenario(text, page), 5)) > 100
    else:
        assert parse_budgets(text, page).budget


def test_there_are_commands_for_each_of_the_four_users() -> None:
    pages = {page for page, _ in ALL}
    assert pages >= {"callers.md", "operations.md", "gate.md", "data-science.md"}
    assert {page for page, _ in blocks("toml")} == {"policies.md", "gate.md", "load.md"}
    assert {page for page, _ in blocks("python")} == {"README.md", "callers.md"}


@pytest.mark.parametrize("line", [line for _, line in ALL])
def test_every_option_in_a_document_exists(line: str) -> None:
    found: click.Command = command
    context = click.Context(command)
    words = shlex.split(line)[1:]
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        found = found.get_command(context, words.pop(0))  # type: ignore[assignment]
        assert found is not None
    # A group that does something by itself without options of its own.
    found = getattr(found, "default", found)
    known = {name for parameter in found.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands for the demo's files and server in a document's command."""
    folder = tmp_path_factory.mktemp("docs")
    bundle, store, requests = folder / "bundle", folder / "events.db", folder / "requests.jsonl"
    tiny_bundle(bundle)
    with SqliteEventStore(store) as opened:
        opened.record(
            [
                Event(f"e{n}", "1", f"item-{n % N_ITEMS:03}", 4, 1_400_000_000_000 + n)
                for n in range(9)
            ]
        )
    requests.write_text(json.dumps({"user_id": "1", "count": 5}) + "\n")
    with live_server(folder, bundle, "--events", store, "--clock", "data-end") as server:
        evidence = folder / "evidence"
        subprocess.run(
            [sys.executable, "-m", "server.cli", "recommend", "--target", server.target, "--user",
             "1", "--count", "20", "--evidence", evidence],
            check=True, capture_output=True,
        )  # fmt: skip
        yield {
            "127.0.0.1:50051": server.target,
            "recommend --user": f"recommend --target {server.target} --user",
            "out/evidence": str(evidence),
            "out/demo/bundle/policies/provider-tiers.toml": str(bundle / "policies/tiers.toml"),
            "my-policies/provider-tiers.toml": str(bundle / "policies/tiers.toml"),
            "out/demo/bundle": str(bundle),
            "out/demo/events.db": str(store),
            "out/demo/requests.jsonl": str(requests),
            "--duration 10": "--duration 5",
            "--examples 20": "--examples 3",
            "out/requests.jsonl": str(requests),
            "out/sampled.jsonl": str(folder / "sampled.jsonl"),
            "out/load": str(folder / "load"),
            "out/mine-load": str(folder / "mine-load"),
            "out/invariants.json": str(folder / "invariants.json"),
        }


@pytest.mark.parametrize("line", RUN)
def test_a_documents_command_runs(line: str, stage: dict[str, str]) -> None:
    for written, meant in stage.items():
        line = line.replace(written, meant)
    run = subprocess.run(
        [sys.executable, "-m", "server.cli", *shlex.split(line)[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # Beside other work a load may be void, and says so.
    void = 3 if line.split()[1] == "load" and "VOID" in run.stdout else 0
    assert run.returncode == void, run.stdout + run.stderr
    assert run.stdout.strip()


@pytest.fixture(scope="module")
def gateway(stage: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with live_gateway(folder, "--server", stage["127.0.0.1:50051"]) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("line", CURL)
def test_a_documents_curl_is_answered(line: str, gateway: Gateway) -> None:
    words = shlex.split(line.replace("127.0.0.1:8080", gateway.target))
    code = ["--silent", "--show-error", "--write-out", "\n%{http_code}"]
    run = subprocess.run([*words, *code], capture_output=True, text=True, timeout=60, check=True)
    body, _, status = run.stdout.rpartition("\n")
    if '"count": 1000' in line:
        message = json.loads(body)["message"]
        assert (status, message) == ("400", "count: got 1000, allowed: 1 to 200")
        assert message in (ROOT / "docs/callers.md").read_text(encoding="utf-8")
    else:
        assert status == "200", body
        assert not body or json.loads(body)


@pytest.mark.parametrize(("page", "program"), blocks("python"))
def test_a_documents_program_runs(page: str, program: str, stage: dict[str, str]) -> None:
    for written, meant in stage.items():
        program = program.replace(written, meant)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "RECEIPT_STATUS_MET" in run.stdout
    if page == "callers.md":
        assert "INVALID_ARGUMENT INVALID_FIELD" in run.stdout


@pytest.fixture
def own_shop(tmp_path: Path, stage: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the data scientist's page speaks of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    raw(shop_rows()).write_csv("bought.csv")
    raw(shop_rows()).select("user", "item", "time").write_csv("ratings.csv")
    raw(shop_rows()).select(
        pl.col("user").alias("customer"), pl.col("item").alias("sku"), pl.col("time").alias("at"),
        pl.lit("sale").alias("what"), pl.lit(5).alias("stars"),
    ).write_csv("orders.csv", separator=";")  # fmt: skip
    mapping = 'user = "customer"\nitem = "sku"\ntime = "at"\nkind = "what"'
    Path("columns.toml").write_text(f'[interactions]\n{mapping}\n[kind]\npurchase = "sale"\n')
    baskets: dict[str, list[str]] = {}
    for user, item, _, _ in sorted(shop_rows(), key=lambda row: row[2]):
        baskets.setdefault(user, []).append(item)
    Path("sequences.txt").write_text(
        "".join(f"{user} {' '.join(items)}\n" for user, items in baskets.items())
    )
    makers = "\n".join(f"item-{n:03},Thing {n},FOOD > SHELF {n % 4},maker-{n % 7},Private" for n in range(60))  # fmt: skip
    Path("items.csv").write_text(f"item,name,category_path,provider,brand\n{makers}\n")
    people = "\n".join(f"user-{n:02},{'north' if n % 2 else 'south'}" for n in range(30))
    Path("users.csv").write_text(f"user,region\n{people}\n")
    budget = 'metric = "quality.ndcg_at_20"\nat_least = 0.0001\ndecide_on = "value"\nmin_n = 1\nreason = "made for a test"'
    Path("my-budgets.toml").write_text(f'schema_version = 1\nname = "own"\n[[budget]]\n{budget}\n')
    Path("my-policies").mkdir()
    shutil.copy(ROOT / "training/policies/provider-tiers.toml", "my-policies")
    return tmp_path


@pytest.mark.parametrize("page", ["data-science.md", "models.md", "policies.md"])
def test_own_purchases_go_from_tables_to_a_verdict(
    page: str, own_shop: Path, stage: dict[str, str]
) -> None:
    """The page's commands in its order, with a small model; the server is the stage's."""
    lines = [line for name, line in ALL if name == page and "--dataset" not in line]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        # tests/training/test_folds.py runs cross-validate, which trains several times.
        if words[0] in ("serve", "load", "recommend", "verify", "policy", "cross-validate"):
            continue
        if words[0] == "train":
            words.append("--quick")
        if words[0] == "gate":
            words = [word for word in words if not word.endswith("load.json")]
        run = subprocess.run(
            [sys.executable, "-m", "server.cli", *words],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert run.returncode == 0, line + run.stdout + run.stderr


def test_the_audits_page_runs_on_own_purchases(own_shop: Path) -> None:
    """With a bundle that is not trained here: it has seen nothing after the cut."""
    data = DataInfo(
        source="by hand", until_unix_ms=START_MS, users=1, items=60, interactions=1, digest="0" * 64
    )
    tiny_bundle(own_shop / "out/mine", data=data)
    lines = [line for name, line in ALL if name == "audit.md" and "--dataset" not in line]
    assert lines
    for line in lines:
        run = subprocess.run(
            [sys.executable, "-m", "server.cli", *shlex.split(line)[1:]],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert run.returncode == 0, line + run.stdout + run.stderr
    assert (own_shop / "out/mine-audit/audit.json").exists()
    page = (own_shop / "out/mine-audit/audit.md").read_text()
    assert "region=north" in page
    assert "audit.md" in run.stdout, "the summary says where the rest is"
