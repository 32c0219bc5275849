"""What do the lists tell about who reads them? An attack that guesses an attribute from the list.

Owns the block `inference` of the results. For each attribute of users, naive Bayes learns from four
fifths of the users which items stand in whose lists, and guesses the label of the others from theirs,
every label as likely beforehand (Weinsberg et al., RecSys 2012, guessed gender of ratings). The same
is done with what the users bought before the cut. Lists are made of purchases alone, so they tell
something of whatever purchases tell; should they tell much more, the attribute came in by another way, such as a
feature that stands for it. (A little more is no proof: a list is short and to the point, which helps so
simple a guesser.)

    guessed                share of users whose label the lists betray, out of fold
    guessed_of_purchases   whose label their purchases betray
    minus_purchases        paired by user; above 0, lists say more than what they are made of

In `metrics` they are inferred_ATTRIBUTE and inferred_ATTRIBUTE_minus_purchases, lower is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import MultinomialNB

from server.features.types import Float64, Int32, Int64
from training.data.dataset import Dataset
from training.data.schema import UNKNOWN
from training.intervals import Resampler
from training.metrics import PerUser
from training.user_groups import Groups

FOLDS = 5
PURCHASES = "purchases"

DEFINITION = (
    f"naive Bayes over items, every label as likely beforehand, {FOLDS} folds of users; guessed: "
    "share of users whose label is told rightly by one who did not learn from them"
)


def inferred(
    lists: Int32, history: Dataset, users: Int32, groups: Groups, *, min_users: int, seed: int
) -> PerUser:
    """inferred_ATTRIBUTE and purchases/inferred_ATTRIBUTE: `[users]`, 1 where guessed rightly, 0 where
    not, NaN for users of no known label, or of one with too few users.

    lists: `[users, k]`, places in the data set, -1 after a short list's end.
    """
    rows = np.repeat(np.arange(len(users)), np.diff(history.user_ptr)[users])
    own = np.concatenate(
        [history.items[history.user_ptr[u] : history.user_ptr[u + 1]] for u in users.tolist()]
        or [np.empty(0, np.int32)]
    )
    shape = (len(users), history.n_items)
    bought = _present(rows, own, shape)
    listed = _present(np.repeat(np.arange(len(users)), lists.shape[1]), lists.ravel(), shape)
    found: PerUser = {}
    for attribute, labels in groups.items():
        name = _name(attribute)
        found[name] = guessed(listed, labels, min_users, seed)
        found[f"{PURCHASES}/{name}"] = guessed(bought, labels, min_users, seed)
    return found


def guessed(present: csr_array, labels: NDArray[Any], min_users: int, seed: int) -> Float64:
    """`[users]`: whether a label is guessed rightly by one who did not learn from that user.

    All NaN where fewer than two labels have `min_users` users.
    """
    names, counts = np.unique(labels, return_counts=True)
    enough = names[(counts >= max(min_users, FOLDS)) & (names != UNKNOWN)]
    out = np.full(len(labels), np.nan)
    rows = np.flatnonzero(np.isin(labels, enough))
    if len(enough) >= 2:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        guess = cross_val_predict(
            MultinomialNB(fit_prior=False), present[rows], labels[rows], cv=folds
        )
        out[rows] = guess == labels[rows]
    return out


def inference_block(per_user: PerUser, groups: Groups, sample: Resampler) -> dict[str, Any]:
    """The block `inference`, of what `inferred` found."""
    found: dict[str, Any] = {}
    for attribute, labels in groups.items():
        name = _name(attribute)
        lists, purchases = per_user[name], per_user[f"{PURCHASES}/{name}"]
        used = set(labels[np.isfinite(lists)].tolist())
        found[attribute] = {
            "labels": sorted(used),
            "by_chance": 1 / len(used) if used else None,
            "guessed": sample.mean(lists, "lower").as_json(),
            "guessed_of_purchases": sample.mean(purchases, "lower").as_json(),
            "minus_purchases": sample.mean(lists - purchases, "lower").as_json(),
        }
    return {"definition": DEFINITION, "attributes": found}


def inference_metrics(block: Mapping[str, Any]) -> dict[str, Any]:
    """The same as estimates of `metrics`; an attribute that could not be guessed at has none."""
    found = {}
    for attribute, one in block["attributes"].items():
        name = _name(attribute)
        if one["labels"]:
            found[name] = one["guessed"]
            found[f"{name}_minus_{PURCHASES}"] = one["minus_purchases"]
    return found


def _name(attribute: str) -> str:
    return f"inferred_{attribute.replace('-', '_')}"


def _present(rows: Int64, items: Int32, shape: tuple[int, int]) -> csr_array:
    """`[users, items]`: 1 where a user has an item, however often."""
    known = items >= 0
    cells = np.unique(rows[known] * shape[1] + items[known])
    ones = np.ones(len(cells))
    return csr_array((ones, (cells // shape[1], cells % shape[1])), shape)
