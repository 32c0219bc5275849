"""JSON Schemas of what the gate reads and writes, for those who make or read such files elsewhere.

    equipoise gate schema verdict > verdict.schema.json

Those of TOML inputs come out of the forms that read them. Results may hold more than is named here; what
is named has this form. Tests hold real files to them.
"""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
FLAG: Schema = {"type": "boolean"}
END: Schema = {"anyOf": [NUMBER, {"enum": ["inf", "-inf", "nan"]}, {"type": "null"}]}
"""A number as JSON can hold it: infinity as text, nothing as null."""


def maybe(schema: Schema) -> Schema:
    """Or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def table(values: Schema) -> Schema:
    """An object of such values under any names."""
    return {"type": "object", "additionalProperties": values}


def listed(items: Schema) -> Schema:
    """A list of such items."""
    return {"type": "array", "items": items}


def form(title: str, **properties: Schema) -> Schema:
    """An object that has all of these."""
    return {
        "$schema": DIALECT, "title": title, "type": "object", "properties": properties,
        "required": list(properties),
    }  # fmt: skip


def _inner(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _header(kind: str) -> dict[str, Schema]:
    return {
        "kind": {"const": kind},
        "schema_version": {"const": 1},
        "bundle_id": {"type": "string", "minLength": 1},
        "model_digest": TEXT,
    }


ESTIMATE: Schema = _inner(value=maybe(NUMBER), n_users=WHOLE)
PERCENTILES: Schema = {
    "type": "object",
    "properties": {"n": WHOLE},
    "required": ["n"],
    "additionalProperties": maybe(NUMBER),
}

QUALITY = form(
    "What 'equipoise evaluate' measured",
    **_header("quality"),
    protocol=_inner(n_users=WHOLE, on={"enum": ["test", "validation"]}),
    intervals=_inner(confidence=SHARE),
    metrics=table(ESTIMATE),
    groups=table(table({"type": "object"})),
    policies=table({"type": "object"}),
)
# Not of every evaluation: older ones tell none.
QUALITY["properties"] |= {"per_user_file": TEXT, "per_user_sha256": DIGEST}
CHECK = _inner(
    name=TEXT, ok=maybe(FLAG), told=TEXT, value=maybe(NUMBER), limit=maybe(NUMBER), voids=FLAG
)
GROUP = _inner(requests=WHOLE, errors=WHOLE, refused=WHOLE, latency_ms=PERCENTILES)
LOAD = form(
    "What 'equipoise load' measured",
    **_header("load"),
    target=TEXT,
    driver={"enum": ["client", "locust"]},
    processes=WHOLE,
    scenario={"type": "object"},
    requests_sha256=DIGEST,
    started_unix_ms=WHOLE,
    deadline_ms=WHOLE,
    valid=FLAG,
    void_because=TEXT,
    checks=listed(CHECK),
    measured_s=NUMBER,
    requests=WHOLE,
    errors=WHOLE,
    error_ratio=maybe(SHARE),
    by_status=table(WHOLE),
    answers_compared=WHOLE,
    latency_ms=PERCENTILES,
    service_ms=PERCENTILES,
    latency_ok_ms=PERCENTILES,
    rows=table(PERCENTILES),
    throughput_rps=maybe(NUMBER),
    goodput_rps=maybe(NUMBER),
    receipts=table(WHOLE),
    groups=table(table(GROUP)),
    server_cpu_us_per_list=maybe(NUMBER),
    histogram_us=TEXT,
    samples=TEXT,
    samples_sha256=DIGEST,
)
VIOLATION = _inner(
    invariant=TEXT, where=TEXT, what=TEXT, example=listed({"type": "object"}), methods=listed(TEXT)
)
INVARIANTS = form(
    "What 'equipoise invariants' checked",
    **_header("invariants"),
    made_unix_ms=WHOLE,
    target=TEXT,
    examples=WHOLE,
    seed=WHOLE,
    tables_known=FLAG,
    only=TEXT,
    valid=FLAG,
    void_because=TEXT,
    checked=table(WHOLE),
    violations=listed(VIOLATION),
    violation_count=WHOLE,
)
CELL = _inner(label=TEXT, n=WHOLE, positives=maybe(WHOLE), value=END, low=END, high=END, p_holm=END)
STATUS: Schema = {"enum": ["pass", "fail", "not enough evidence"]}
LINE = _inner(
    metric=TEXT, status=STATUS, value=END, low=END, high=END, n=WHOLE, unit=TEXT, bound=TEXT,
    why=TEXT, reason=TEXT, owner=TEXT, kind=TEXT, low_bound=maybe(NUMBER),
    high_bound=maybe(NUMBER), relative=FLAG, bound_unit=TEXT, alpha_low=maybe(NUMBER),
    alpha_high=maybe(NUMBER), needed=maybe(WHOLE), effective_n=maybe(NUMBER), blocks=maybe(WHOLE),
    weaker_because=TEXT, cells=listed(CELL),
)  # fmt: skip
VERDICT = form(
    "A verdict of 'equipoise gate'",
    kind={"const": "verdict"},
    schema_version={"const": 1},
    bundle_id=TEXT,
    budgets=TEXT,
    status=STATUS,
    exit_code={"enum": [0, 1, 3]},
    budgets_sha256=DIGEST,
    baseline=maybe(TEXT),
    look=WHOLE,
    looks=WHOLE,
    lines=listed(LINE),
)
FILE = _inner(path=TEXT, sha256=DIGEST, beside=table(DIGEST))
RECORD = form(
    "A release record",
    kind={"const": "release-record"},
    schema_version={"const": 1},
    made_unix_ms=WHOLE,
    machine=table({"type": ["string", "integer"]}),
    asked=_inner(
        budgets=FILE, results=listed(FILE), baseline=listed(FILE), last_release=maybe(FILE),
        seal={"anyOf": [FILE, DIGEST, {"type": "null"}]}, bundle_id=maybe(TEXT), look=WHOLE,
        today={"type": "string", "format": "date"},
    ),
    verdict=VERDICT,
    record_sha256=DIGEST,
)  # fmt: skip


def schema_of(name: str) -> Schema:
    """By the name of `NAMES`."""
    if name == "budgets":
        from bench.gate.budgets import Budgets

        return {"$schema": DIALECT, **Budgets.model_json_schema()}
    if name == "scenario":
        from bench.load.scenario import Scenario

        return {"$schema": DIALECT, **Scenario.model_json_schema()}
    return _WRITTEN[name]


_WRITTEN: dict[str, Schema] = {
    "quality": QUALITY,
    "load": LOAD,
    "invariants": INVARIANTS,
    "verdict": VERDICT,
    "record": RECORD,
}
NAMES = ("budgets", "scenario", *_WRITTEN)
