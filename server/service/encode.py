"""Answers -> messages. Owns the shape of responses; adds nothing to what the engine said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from server import __version__
from server.batcher import Batched
from server.bundle import Bundle
from server.config import ServerSettings
from server.engine import (
    Answer,
    Degraded,
    Normalised,
    Outcome,
    RecommendQuery,
    RerankQuery,
    Scored,
    ScoredCandidates,
)
from server.fairness.types import Receipt

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


def _add_items(answer: Answer, into: RepeatedCompositeFieldContainer[pb.RankedItem]) -> None:
    page = slice(answer.offset, answer.end)
    columns = zip(
        answer.item_ids[page],
        answer.scores[page].tolist(),
        answer.fair.rank_by_score[page].tolist(),
        answer.groups[page],
        answer.sources[page].tolist(),
        answer.fair.reasons[page].tolist(),
        strict=True,
    )
    # Added in place, for a message that is put into another one is copied.
    add = into.add
    for rank, (item, score, by_score, groups, source, reason) in enumerate(
        columns, start=answer.offset + 1
    ):
        own = add(
            rank=rank,
            item_id=item,
            score=score,
            rank_by_score=by_score,
            source=source,
            reason=reason,
        )
        if len(groups) == 1:
            own.group = groups[0]
        else:
            own.groups.extend(groups)


def _candidates(candidates: ScoredCandidates) -> list[pb.ScoredCandidate]:
    columns = zip(
        candidates.item_ids,
        candidates.scores.tolist(),
        candidates.groups,
        candidates.boosts.tolist(),
        strict=True,
    )
    return [
        pb.ScoredCandidate(
            item_id=item,
            score=score,
            group=groups[0] if len(groups) == 1 else "",
            groups=groups if len(groups) > 1 else (),
            boost=boost,
        )
        for item, score, groups, boost in columns
    ]


def receipt_message(
    receipt: Receipt, *, groups_from_caller: bool = False, fallback: bool = False
) -> pb.FairnessReceipt:
    """The receipt as it is sent."""
    bad = receipt.first_bad_prefix
    return pb.FairnessReceipt(
        policy=receipt.policy,
        policy_version=receipt.policy_version,
        policy_digest=receipt.policy_digest,
        group_table=receipt.group_table,
        status=pb.ReceiptStatus.ValueType(receipt.status),
        skip_reason=pb.SkipReason.ValueType(receipt.skip_reason),
        first_bad_prefix=None
        if bad is None
        else pb.PrefixViolation(
            prefix=bad.prefix, group=bad.group, needed=bad.needed, available=bad.available
        ),
        utility_kept=receipt.utility_kept,
        places_moved=receipt.places_moved,
        utility_of_best=receipt.utility_of_best,
        discount=receipt.discount,
        calibration=[
            pb.CalibrationGap(group_table=gap.group_table, before=gap.before, after=gap.after)
            for gap in receipt.calibration
        ],
        groups_from_caller=groups_from_caller,
        fallback=fallback,
        exposure=[
            pb.GroupExposure(group=part.group, items=part.items, exposure_share=part.exposure_share)
            for part in receipt.exposure
        ],
    )


def _phases(
    answer: Answer, batched: Batched[Outcome], decode_ns: int, total_ns: int
) -> pb.PhaseTimes:
    phases = answer.phases
    return pb.PhaseTimes(
        decode_ns=decode_ns,
        queue_ns=batched.queue_ns,
        history_ns=phases.history_ns,
        features_ns=phases.features_ns,
        model_ns=phases.model_ns,
        fair_ns=phases.fair_ns,
        total_ns=total_ns,
        batch_size=batched.batch_size,
    )


def recommend_response(
    query: RecommendQuery, batched: Batched[Outcome], bundle: Bundle, decode_ns: int, total_ns: int
) -> pb.RecommendResponse:
    """The response to a Recommend."""
    outcome = batched.result
    assert not isinstance(outcome, Scored)
    response = pb.RecommendResponse(
        request_id=query.request_id,
        bundle_id=bundle.manifest.bundle_id,
        model_digest=bundle.manifest.model.digest,
        degraded_reasons=sorted(pb.DegradedReason.ValueType(r) for r in outcome.degraded),
        skipped_candidates=outcome.skipped_candidates,
        skipped_history_events=outcome.skipped_history,
        surface=query.surface,
        experiment=query.experiment,
    )
    if isinstance(outcome, Normalised):
        response.normalised.CopyFrom(
            pb.NormalisedRequest(
                count=outcome.count,
                policy=outcome.policy,
                personal=outcome.personal,
                history_events=outcome.history_events,
                candidates=outcome.candidates,
                seen_items=pb.SEEN_ITEMS_INCLUDE if outcome.seen else pb.SEEN_ITEMS_EXCLUDE,
                as_of_unix_ms=outcome.as_of_ms,
                warnings=outcome.warnings,
            )
        )
        return response
    _add_items(outcome, response.items)
    fallback = Degraded.FALLBACK in outcome.degraded
    response.receipt.CopyFrom(receipt_message(outcome.fair.receipt, fallback=fallback))
    response.page_offset = outcome.offset
    response.phases.CopyFrom(_phases(outcome, batched, decode_ns, total_ns))
    if outcome.candidates is not None:
        response.candidates.extend(_candidates(outcome.candidates))
        response.bought.extend(
            pb.GroupCount(group_table=table, group=group, count=count)
            for table, group, count in outcome.candidates.bought
        )
    return response


def rerank_response(
    query: RerankQuery, batched: Batched[Outcome], bundle: Bundle, decode_ns: int, total_ns: int
) -> pb.RerankResponse:
    """The response to a Rerank."""
    answer = batched.result
    assert isinstance(answer, Answer)
    response = pb.RerankResponse(
        request_id=query.request_id,
        receipt=receipt_message(answer.fair.receipt, groups_from_caller=answer.groups_from_caller),
        candidates=() if answer.candidates is None else _candidates(answer.candidates),
        bundle_id=bundle.manifest.bundle_id,
        phases=_phases(answer, batched, decode_ns, total_ns),
        surface=query.surface,
        experiment=query.experiment,
        degraded_reasons=sorted(pb.DegradedReason.ValueType(r) for r in answer.degraded),
    )
    _add_items(answer, response.items)
    return response


def serving_info(bundle: Bundle, settings: ServerSettings) -> serving_pb2.GetServingInfoResponse:
    """What the server serves; the same for the life of a bundle."""
    manifest = bundle.manifest
    model = manifest.model
    return serving_pb2.GetServingInfoResponse(
        bundle_id=manifest.bundle_id,
        bundle_created_unix_ms=manifest.created_unix_ms,
        data_until_unix_ms=manifest.data.until_unix_ms,
        items=len(bundle.items.ids),
        model=serving_pb2.ModelInfo(
            digest=model.digest,
            family=model.family,
            opset=model.opset,
            feature_names=model.feature_names,
            best_batch=model.best_batch,
        ),
        policies=[
            serving_pb2.PolicyInfo(
                name=name,
                version=compiled.policy.version,
                digest=compiled.policy.digest,
                kind=compiled.policy.kind,
                group_table=compiled.policy.group_table,
                reason=compiled.policy.reason,
                groups=compiled.labels,
                is_default=name == manifest.default_policy,
                rule_kinds=[rule.kind for rule in compiled.policy.rules],
                on_late=compiled.policy.on_late,
            )
            for name, compiled in sorted(bundle.policies.items())
        ],
        limits=serving_pb2.Limits(
            max_count=settings.max_count,
            max_candidates=settings.max_candidates,
            max_history_events=settings.max_history_events,
            max_exclusions=settings.max_exclusions,
            max_feedback_events=settings.max_feedback_events,
            max_message_bytes=settings.max_message_bytes,
            max_queue=settings.max_queue,
            max_batch_requests=settings.max_batch_requests,
            max_stream_in_flight=settings.max_stream_in_flight,
            max_background_queue=settings.max_background_queue,
        ),
        server_version=__version__,
        group_tables=sorted(bundle.groups),
    )
