"""A trained ranker and its data -> a release bundle.

Owns what goes into a bundle: the item table (商品属性), group tables, policies,
goldens, warm-up requests drawn from item statistics, and the model card. No
user's data goes in.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from server.bundle import (
    BundleParts,
    DataInfo,
    GroupTable,
    ItemTable,
    Retrieval,
    Searcher,
    Warmup,
    feed_maker,
    searcher,
)
from server.fairness import parse_policy
from server.features import FEATURE_NAMES, FeatureState, generate_candidates
from server.features.types import DAY_MS, History
from server.model import BATCH, CANDIDATES, Feed, OnnxRetriever, OnnxScorer
from training import export
from training.choose_policies import ChosenPolicies
from training.data.dataset import Dataset
from training.data.schema import UNKNOWN
from training.families import Family
from training.fit_features import attribute_codes
from training.settings import TrainSettings

# Providers by sales: the fewest that make half are large, the next to 80 % medium.
LARGE_SHARE, MEDIUM_SHARE = 0.5, 0.8
WARMUPS = 12
WARMUP_EVENTS = 80
WARMUP_DAYS = 180
TOP = 20
GOLDEN_CANDIDATES = 32


def item_table(data: Dataset) -> ItemTable:
    """The items with their names and attributes."""
    attributes = dict(data.item_attributes)
    names = attributes.pop("name", data.item_ids)
    return ItemTable(data.item_ids, tuple(names), attributes)


def provider_tiers(data: Dataset) -> GroupTable:
    """Large, medium and small providers by their share of the sales in `data`."""
    providers = data.item_attributes.get("provider", (UNKNOWN,) * data.n_items)
    codes = attribute_codes(providers)
    names = sorted(set(providers))
    sales = np.bincount(codes[data.items], weights=data.values, minlength=len(names))
    if not sales.sum() > 0:
        sales = np.bincount(codes[data.items], minlength=len(names)).astype(float)
    untold = np.array([name == UNKNOWN for name in names])
    sales[untold] = 0
    order = np.argsort(-sales, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(sales[order])[:-1]]) / max(sales.sum(), 1e-12)
    tier = np.empty(len(names), np.int32)
    tier[order] = np.where(before < LARGE_SHARE, 0, np.where(before < MEDIUM_SHARE, 1, 2))
    tier[untold] = 3
    return GroupTable("provider_tier", ("large", "medium", "small", UNKNOWN), tier[codes])


def group_tables(data: Dataset) -> tuple[GroupTable, ...]:
    """Provider tiers and a table each for brand, category and department, where the data tells."""
    providers = data.item_attributes.get("provider", ())
    tables = [provider_tiers(data)] if set(providers) - {UNKNOWN} else []
    for name in ("brand", "category", "department"):
        texts = data.item_attributes.get(name)
        if texts is not None and set(texts) != {UNKNOWN}:
            tables.append(GroupTable(name, tuple(sorted(set(texts))), attribute_codes(texts)))
    return tuple(tables)


def warmups(
    state: FeatureState,
    scorer: OnnxScorer,
    now_ms: int,
    n_novel: int,
    seed: int,
    n_popular: int = 0,
    search: Searcher | None = None,
) -> tuple[Warmup, ...]:
    """Requests of users who do not exist: items drawn by popularity, times evenly.

    search: where novel candidates come from for whoever has a history, if not by item-item weights.
    """
    rng = np.random.default_rng(seed)
    popularity = np.expm1(state.popularity.astype(np.float64))
    chance = popularity / popularity.sum()
    feed = feed_maker(scorer.ports, state)
    made = []
    for number in range(WARMUPS):
        # The first has no history: the non-personal list.
        events = 0 if number == 0 else int(rng.integers(1, WARMUP_EVENTS))
        items = rng.choice(state.n_items, events, p=chance).astype(np.int32)
        days = rng.integers(0, WARMUP_DAYS, events)
        history = History.of(
            items, (now_ms - days * DAY_MS).astype(np.int64), np.ones(events, np.float32)
        )
        similar = search(history) if search is not None and events else None
        found = generate_candidates(
            history, now_ms, state, n_novel, n_popular=n_popular, similar=similar
        )
        scores = scorer.score_lists([feed(history, found.items, now_ms)])[0]
        top = found.items[np.lexsort((found.items, -scores))[:TOP]]
        made.append(Warmup(history, now_ms, top))
    return tuple(made)


def assemble(
    *,
    name: str,
    data: Dataset,
    until_ms: int,
    state: FeatureState,
    model: bytes,
    family: Family,
    groups: tuple[GroupTable, ...],
    policies: ChosenPolicies,
    settings: TrainSettings,
    horizon_days: int,
    quality: Mapping[str, Any],
    retrieval: tuple[Retrieval, bytes] | None = None,
) -> BundleParts:
    """The parts of a bundle made from `data`, the events up to `until_ms`."""
    scorer = export.scorer_of(model, family)
    search = None
    if retrieval is not None:
        told, graph = retrieval
        retriever = OnnxRetriever(graph, family.history_length, told.items, data.n_items)
        search = searcher(retriever, family.history_length)
    made = warmups(
        state, scorer, until_ms, settings.n_novel, settings.seed, settings.n_popular, search
    )
    inputs = _golden_inputs(made, state, scorer)
    measured = export.measured_batches(scorer, partial(random_feed, scorer, data.n_items))
    return BundleParts(
        name=name,
        created_unix_ms=time.time_ns() // 1_000_000,
        data=DataInfo(
            source=data.source,
            until_unix_ms=until_ms,
            users=int(np.count_nonzero(np.diff(data.user_ptr))),
            items=data.n_items,
            interactions=data.n_events,
            digest=data.digest(),
        ),
        family=family.name,
        model=model,
        opset=export.OPSET,
        feature_names=FEATURE_NAMES if family.n_features else (),
        history_length=family.history_length,
        best_batch=export.best_batch(measured),
        measured_batches=measured,
        n_novel=settings.n_novel,
        n_popular=settings.n_popular,
        retrieval=retrieval,
        state=state,
        items=item_table(data),
        groups=groups,
        policies=policies.documents,
        default_policy=policies.default,
        golden_inputs=inputs,
        golden_outputs=scorer.score(inputs),
        warmups=made,
        model_card=_card(
            name, data, settings, horizon_days, family, quality, policies, search is not None
        ),
        horizon_days=horizon_days,
        quality=quality,
        made_with={
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    )


def random_feed(scorer: OnnxScorer, n_items: int, lists: int, candidates: int) -> Feed:
    """Inputs of so many lists with so many candidates, to time the model with."""
    rng = np.random.default_rng(0)
    sizes = {BATCH: lists, CANDIDATES: candidates}
    feed: dict[str, NDArray[Any]] = {}
    for port in scorer.ports:
        shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in port.axes)
        drawn = (
            rng.normal(0, 1, shape)
            if port.dtype is np.float32
            else rng.integers(1, n_items + 1, shape)
        )
        feed[port.name] = drawn.astype(port.dtype)
    return feed


def _golden_inputs(made: tuple[Warmup, ...], state: FeatureState, scorer: OnnxScorer) -> Feed:
    feed = feed_maker(scorer.ports, state)
    lists = [feed(one.history, state.popular[:GOLDEN_CANDIDATES], one.now_ms) for one in made[:6]]
    return {name: np.stack([one[name] for one in lists]) for name in lists[0]}


def _card(
    name: str,
    data: Dataset,
    settings: TrainSettings,
    horizon_days: int,
    family: Family,
    quality: Mapping[str, Any],
    policies: ChosenPolicies,
    searched: bool,
) -> str:
    # Curves and what was tried are in the manifest.
    figures = "\n".join(
        f"- {key}: {value}" for key, value in quality.items() if not isinstance(value, Mapping)
    )
    fair = quality.get("fair_training")
    equalised = (
        f"losses were weighed by {fair['attribute']} ({fair['method']}, strength {fair['strength']:g})"
        if fair
        else "groups of users are audited, not equalised"
    )
    lines = "\n".join(
        f"- `{policy}`{' (default)' if policy == policies.default else ''}: {parse_policy(text, policy).reason}"
        for policy, text in sorted(policies.documents.items())
    )
    return f"""# {name}

## What it does
Ranks items for one user by the estimated probability of a purchase within {horizon_days} days:
{family.told}.
Candidates are the items of the history and {settings.n_novel} others, {settings.n_popular} of them best
sellers and the rest by {"a search of all items" if searched else "EASE"}; the fair stage comes last.

## Data
{data.source}: {data.n_events:,} purchases of {data.n_items:,} items. The bundle holds statistics of
items only, each of at least {settings.min_buyers} buyers; pair weights rest on as many.

## Measured on validation
{figures}

## Policies
{lines}

## Limits
- Age, income, sex and household are no inputs; {equalised}.
- Scores are calibrated on the validation weeks and drift with the season.
- Items bought by nobody in training get no neighbours and are rarely found.
- Group tables come from the data's own labels; a wrong label is a wrong floor.
"""
