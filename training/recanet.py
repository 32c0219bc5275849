"""A repeat-consumption ranker after ReCANet: when did this user buy this item, and is it due again?

Only the module. Ariannezhad, Jullien, Li, Fang, Schelter and de Rijke, SIGIR 2022: the gaps between a
user's last purchases of an item, the last one up to now, are read by an LSTM, each beside a vector of the
pair (user, item); a Dense layer and a sigmoid give the chance that he buys it again.

What is other than in the article. No user has a vector of his own, since a served history is the
request's: the pair features that say how he shops stand for him (`READS`). Items that he never bought are
candidates too: they have no gaps, the LSTM's state is 0, and the pair's vector, which the last layers read
as well, is all there is to say. One LSTM layer stands for two: it is most of what a request costs.

Gaps are counted in the graph, from the history that every sequence model reads, so that serving needs
nothing more; what is older than that history is not known. They are told twice. In trips, as in the
article: events of one instant are in item order and no item is there twice, so where the number does not
rise a new trip begins. Two trips pass for one where the numbers rise from the one to the other: seldom
among baskets, every second time among single events. And in events, which is exact among these.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.feature_groups import Group
from training.model import inverse_of

FAMILY = "recanet"
READS: tuple[Group, ...] = ("user",)
"""The groups of pair features that stand for the user's vector."""


class RepeatRanker(nn.Module):
    """Features `[batch, n, F]`, history `[batch, L]`, candidates `[batch, n]` -> probabilities `[batch, n]`.

    Item i is i + 1, 0 is nothing. mean, std `[F]`: of the features; one that does not vary, or is given as
    if, counts for nothing. gaps: how many are read. length: L. scale and offset calibrate the logit, as in
    `PairRanker`.
    """

    mean: Tensor
    inverse_std: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        n_items: int,
        length: int,
        gaps: int,
        width: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.length = length
        self.gaps = gaps
        self.register_buffer("mean", mean)
        self.register_buffer("inverse_std", inverse_of(mean, std))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self.items = nn.Embedding(n_items + 1, width, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0] = 0
        self.pair = nn.Linear(width + len(mean), width)
        self.step_of_pair = nn.Linear(width, width)
        self.step_of_gap = nn.Linear(2, width, bias=False)
        # Without biases what holds nothing leaves the state as it was.
        self.lstm = nn.LSTM(width, width, batch_first=True, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 1)

    def gaps_of(self, history: Tensor, candidates: Tensor) -> Tensor:
        """The last gaps between purchases of each candidate, `[batch, n, gaps, 2]`, in events and in trips:
        the newest last, which is the one up to the next event or trip; 0 where there are no more."""
        known = (history > 0).to(torch.float32)
        places = torch.arange(1, self.length + 1, dtype=torch.float32, device=history.device)
        falls = (history[:, 1:] <= history[:, :-1]).to(torch.float32)
        trips = torch.cumsum(torch.cat([known[:, :1], falls], 1), 1)
        bought = (history[:, None, :] == candidates[:, :, None]) * (places * known)[:, None, :]
        place = torch.topk(bought, self.gaps, dim=-1).values
        there = (place > 0).to(torch.float32)
        trip = trips.gather(1, (place - there).to(torch.int64).flatten(1)).view(place.shape)
        told = torch.stack([place, trip], -1)
        # The next event and the next trip come after the last ones.
        after = torch.stack([torch.full_like(trips[:, -1], self.length), trips[:, -1]], -1) + 1
        after = after[:, None, None].expand_as(told[:, :, :1])
        since = torch.cat([after, told[:, :, :-1]], 2) - told
        return (since * there[..., None]).flip(2)

    def logits(self, features: Tensor, gaps: Tensor, candidates: Tensor) -> Tensor:
        """Uncalibrated scores `[...]` of features `[..., F]`, gaps `[..., gaps, 2]` and candidates `[...]`."""
        standard = (features - self.mean) * self.inverse_std
        vectors = self.items(candidates)
        if self.training:
            # Whole vectors: they learn a rare item's purchases by heart, and the rest must do without.
            vectors = vectors * self.dropout(torch.ones_like(vectors[..., :1]))
        pair = torch.relu(self.pair(torch.cat([vectors, standard], -1)))
        steps = self.step_of_pair(pair)[..., None, :] + self.step_of_gap(torch.log1p(gaps))
        steps = torch.relu(steps) * (gaps[..., :1] > 0)
        states, _ = self.lstm(steps.flatten(0, -3))
        told = torch.cat([states[:, -1].view(pair.shape), pair], -1)
        scores: Tensor = self.out(torch.relu(self.dense(self.dropout(told)))).squeeze(-1)
        return scores

    def forward(self, features: Tensor, history: Tensor, candidates: Tensor) -> Tensor:
        told = self.logits(features, self.gaps_of(history, candidates), candidates)
        return torch.sigmoid(told * self.scale + self.offset)
