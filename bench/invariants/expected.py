"""Which theorems a whole run over a server has to come to, so that one that never came up is seen."""

from __future__ import annotations

from bench.invariants.world import World

ALWAYS = frozenset({
    "bad_input_refused", "excluded_never_appear", "exposure", "length", "never_internal",
    "no_duplicates", "one_bundle", "only_what_is_left", "places_moved", "rank_by_score", "ranks",
    "reason_codes", "receipt_names_policy", "refusal_gives_a_reason", "refusal_names_the_field",
    "scores_unchanged", "short_lists_say_so", "status", "subset_of_candidates", "utility_kept",
    "valid_request_answered", "validate_only_makes_no_list", "validate_only_tells_what_is_meant",
})  # fmt: skip
STEADY = frozenset(
    {"deterministic", "off_means_off", "order_of_input_is_nothing", "same_in_company"}
)
"""Where a policy does not look at what was shown before."""
OF_GROUPS = frozenset({"first_bad_prefix_belongs_to_infeasible", "groups_unchanged"})


def expected(world: World) -> frozenset[str]:
    """Those that some example of every property comes to, if there are enough of them.

    Not those whose premise a server may never meet, such as what must hold of a list that no order of the
    candidates could have made fair.
    """
    found = set(ALWAYS)
    for policy in world.policies:
        groups, bounds = bool(policy.labels), policy.tables is not None
        exact = policy.exact and groups
        found |= STEADY if "amortised" not in policy.rules else set()
        found |= {"score_order_in_group"} if policy.by_score else set()
        found |= {"plain_order_for_kind_none"} if policy.kind == "none" else set()
        found |= OF_GROUPS if groups else set()
        found |= {"best_of_each_group"} if groups and policy.by_score else set()
        found |= {"idempotent"} if exact else set()
        found |= {"bounds_kept_when_met"} if groups and bounds else set()
        found |= {"first_bad_prefix_is_true"} if groups and bounds and policy.one_table else set()
        found |= {"no_fair_list_is_better"} if exact and bounds else set()
    return frozenset(found)
