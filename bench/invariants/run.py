"""Runs the properties and gathers what was broken, each with its smallest example.

Owns how Hypothesis is driven: seeded, without a database, one search for every
theorem that breaks, so that the first defect does not hide the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from bench.invariants import properties, requests
from bench.invariants.callers import Kernels, LiveServer, ServerGone
from bench.invariants.claims import Claims, Violated, Violation
from bench.invariants.expected import expected
from bench.invariants.world import PolicyFacts, World, learn
from bench.refused import InputRefused
from bench.target import check_target, serving_info
from equipoise.v1 import recommendation_pb2 as pb
from server.fairness import compile_policy, parse_policy

SCHEMA_VERSION = 1
# More broken theorems than this in one property say nothing more.
MAX_ROUNDS = 25
# Making an example small asks the server hundreds of times: for the first theorem that breaks in a
# property, not for every consequence of one defect.
SHRUNK = 1

# As many calls at once as a batch of small servers holds.
MOST_AT_ONCE = 12

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Property:
    """One property: where it applies, what to generate, what to claim."""

    where: str
    examples: st.SearchStrategy[Any]
    holds: Callable[[Any], None]


class _Stop(BaseException):
    """Passes through Hypothesis, which would take an Exception for a defect and make it small."""

    def __init__(self, gone: ServerGone) -> None:
        self.gone = gone
        super().__init__()


def search(
    prop: Property, claims: Claims, examples: int, number: int, seen: Callable[[], None],
    found: list[Violation],
) -> None:  # fmt: skip
    """Every theorem of the property that an example breaks, with the smallest one found.

    found: gets them, also where the server goes away.

    Raises:
        ServerGone: it does not answer any more.
    """
    claims.where, claims.known = prop.where, set()
    for broken in range(MAX_ROUNDS):
        shrink = (Phase.shrink,) if broken < SHRUNK else ()
        claims.forget()

        @seed(number)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, *shrink),
            verbosity=Verbosity.quiet,
        )
        @given(prop.examples)
        def attempt(example: Any) -> None:
            seen()
            try:
                prop.holds(example)
            except ServerGone as gone:
                raise _Stop(gone) from gone

        try:
            attempt()
            return
        except _Stop as stop:
            # What was found stands, though nobody can make it smaller any more.
            if claims.last is not None:
                found.append(claims.last)
            raise stop.gone from stop
        except Violated as violated:
            found.append(violated.violation)
        except Flaky:
            # Replayed, the same requests got another answer: the violation stands all the more.
            violation = claims.last
            assert violation is not None
            found.append(replace(violation, what=f"{violation.what} (not at every try)"))
        claims.known.add(found[-1].invariant)


def _run(
    props: list[Property], claims: Claims, examples: int, number: int, progress: Progress,
    found: list[Violation],
) -> None:  # fmt: skip
    """found: gets the violations, also of a run that does not end."""
    for place, prop in enumerate(props):
        tried = 0

        def seen(place: int = place) -> None:
            nonlocal tried
            tried += 1
            progress((place + min(tried / examples, 1.0)) / len(props))

        search(prop, claims, examples, number, seen, found)
    progress(1.0)


def _rerank_property(claims: Claims, caller: Any, world: World, policy: PolicyFacts) -> Property:
    return Property(
        f"Rerank under {policy.name}",
        requests.rerank_requests(world, policy),
        lambda request: properties.rerank_holds(claims, caller, policy, request),
    )


def _server_properties(claims: Claims, server: LiveServer, world: World) -> list[Property]:
    props = []
    for policy in world.policies:
        props += [
            _rerank_property(claims, server, world, policy),
            Property(
                f"Recommend under {policy.name}",
                requests.recommend_requests(world, policy),
                lambda request, policy=policy: properties.recommend_holds(  # type: ignore[misc]
                    claims, server, world, policy, request
                ),
            ),
            Property(
                f"malformed Rerank under {policy.name}",
                requests.spoiled_rerank(world, policy),
                lambda spoiled: properties.refused_rightly(
                    claims, server.rerank(spoiled[1]), *spoiled
                ),
            ),
        ]
    any_policy = st.sampled_from(world.policies)
    # Two lists are compared: a policy that evens out exposure moves on between them.
    steady = [policy for policy in world.policies if "amortised" not in policy.rules]
    asked = st.sampled_from(steady).flatmap(
        lambda policy: requests.recommend_requests(world, policy)
    )
    return [
        *props,
        *(
            [
                Property(
                    "Recommend with personalisation off",
                    st.tuples(asked, asked, st.sampled_from(["", "somebody", "17"])),
                    lambda pair: properties.off_switch_holds(claims, server, pair),
                ),
                Property(
                    "Recommend in company",
                    st.lists(asked, min_size=2, max_size=MOST_AT_ONCE),
                    lambda several: properties.company_holds(claims, server, several),
                ),
            ]
            if steady
            else []
        ),
        Property(
            "Recommend, validate only",
            any_policy.flatmap(
                lambda policy: st.tuples(
                    st.just(policy), requests.recommend_requests(world, policy)
                )
            ),
            lambda pair: properties.validate_only_holds(claims, server, *pair),
        ),
        Property(
            "malformed Recommend",
            any_policy.flatmap(lambda policy: requests.spoiled_recommend(world, policy)),
            lambda spoiled: properties.refused_rightly(
                claims, server.recommend(spoiled[1]), *spoiled
            ),
        ),
        Property(
            "malformed RecordFeedback",
            requests.spoiled_feedback(world),
            lambda spoiled: properties.refused_rightly(claims, server.record(spoiled[1]), *spoiled),
        ),
    ]


def _result(
    bundle_id: str, model_digest: str, target: str, examples: int, number: int,
    claims: Claims, found: list[Violation], *, tables_known: bool, only: str = "", void: str = "",
    due: frozenset[str] = frozenset(),
) -> dict[str, Any]:  # fmt: skip
    """due: theorems that the run had to come to; one that it did not has been checked 0 times."""
    return {
        "kind": "invariants",
        "schema_version": SCHEMA_VERSION,
        "bundle_id": bundle_id,
        "model_digest": model_digest,
        "made_unix_ms": time.time_ns() // 1_000_000,
        "target": target,
        "examples": examples,
        "seed": number,
        "tables_known": tables_known,
        "only": only,
        "valid": not void,
        "void_because": void,
        "checked": dict(sorted((dict.fromkeys(due, 0) | claims.checked).items())),
        "violations": [asdict(violation) for violation in found],
        "violation_count": len(found),
    }


def check_server(
    target: str,
    *,
    bundle: Path | None = None,
    examples: int = 60,
    seed: int = 1,
    only: str = "",
    allow_remote: bool = False,
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """Check a live server; return the invariants result.

    only: run the properties whose names hold this text ("Rerank"); all of them when empty. A server that
    stops to answer makes the run void; what was found by then is in the result.

    Raises:
        InputRefused: the target is not allowed or does not answer, serves another bundle, returned
            no item to ask about, or `only` is in no property's name.
    """
    check_target(target, allow_remote=allow_remote)
    info = serving_info(target)
    claims = Claims()
    with grpc.insecure_channel(target) as channel:
        server = LiveServer(channel)

        def recommend(request: pb.RecommendRequest) -> pb.RecommendResponse:
            answer = server.recommend(request)
            if answer.response is None:
                told = f"it answers a plain request with {answer.code}: {answer.message}"
                raise InputRefused("--target", target, told)
            return answer.response

        try:
            world = learn(info, recommend, bundle, seed)
        except ServerGone as gone:
            raise InputRefused("--target", target, str(gone)) from gone
        if not world.items:
            told = "the server returned no item to ask about; give --bundle"
            raise InputRefused("--target", target, told)
        every = _server_properties(claims, server, world)
        props = [prop for prop in every if only in prop.where]
        if not props:
            names = ", ".join(repr(prop.where) for prop in every)
            raise InputRefused("--only", "", f"got {only!r}, allowed: a part of {names}")
        found: list[Violation] = []
        void = ""
        try:
            _run(props, claims, examples, seed, progress, found)
        except ServerGone as gone:
            void = f"the run did not end: {gone}"
    return _result(
        info.bundle_id, info.model.digest, target, examples, seed, claims, found,
        tables_known=bundle is not None, only=only, void=void,
        due=frozenset() if only else expected(world),
    )  # fmt: skip


_LABELS = ("a", "b", "c", "d")


@st.composite
def _documents(draw: st.DrawFn) -> str:
    """The document of any policy over up to four groups."""
    kind = draw(st.sampled_from(["none", "floors", "fa_ir", "window", "cap"]))
    refuse = draw(st.booleans())
    head = (
        f'name = "drawn"\nversion = "1"\nkind = "{kind}"\nreason = "drawn by Hypothesis"\n'
        f'on_infeasible = "{"refuse" if refuse else "serve"}"\n'
    )
    if kind == "none":
        return head
    head += f'group_table = "t"\n[{kind}]\n'
    if kind == "cap":
        within = draw(st.integers(1, 12))
        return f"{head}at_most = {draw(st.integers(1, within))}\nwithin_first = {within}\n"
    parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=len(_LABELS)))
    whole = sum(parts) + (0 if kind == "window" else draw(st.integers(0, 5)))
    if kind == "fa_ir":
        head += f'alpha = "{draw(st.integers(1, 30))}/100"\n'
        head += f"within_first = {draw(st.integers(1, 12))}\n[fa_ir.shares]\n"
    return head + "".join(
        f'{label} = "{part}/{whole}"\n' for label, part in zip(_LABELS, parts, strict=False)
    )


@st.composite
def _kernel_cases(draw: st.DrawFn, max_count: int) -> tuple[Kernels, PolicyFacts, pb.RerankRequest]:
    document = draw(_documents())
    compiled = compile_policy(parse_policy(document, "drawn"), _LABELS, max_count)
    facts = PolicyFacts.of(compiled)
    world = World("kernels", (facts,), max_count=max_count)
    return Kernels({facts.name: compiled}), facts, draw(requests.rerank_requests(world, facts))


def check_kernels(
    *, examples: int = 500, seed: int = 1, progress: Progress = lambda done: None
) -> dict[str, Any]:
    """Check the installed fair stage under drawn policies; return an invariants result."""
    claims = Claims()
    prop = Property(
        "the kernels under drawn policies",
        _kernel_cases(20),
        lambda case: properties.rerank_holds(claims, *case),
    )
    found: list[Violation] = []
    _run([prop], claims, examples, seed, progress, found)
    return _result("kernels", "", "kernels", examples, seed, claims, found, tables_known=True)


def told(result: Mapping[str, Any]) -> str:
    """The result in one sentence.

    >>> told({"checked": {"length": 3}, "violation_count": 0, "target": "t"})
    '3 checks of 1 theorems on t: none is broken'
    """
    checks, count = sum(result["checked"].values()), result["violation_count"]
    outcome = "none is broken" if count == 0 else f"{count} broken"
    never = [name.replace("_", " ") for name, times in result["checked"].items() if not times]
    theorems = len(result["checked"]) - len(never)
    sentence = f"{checks:,} checks of {theorems} theorems on {result['target']}: {outcome}"
    if never:
        sentence += f"; never came up: {', '.join(never)}: more --examples"
    return f"{sentence}; VOID: {result['void_because']}" if result.get("void_because") else sentence
