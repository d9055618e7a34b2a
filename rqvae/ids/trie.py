"""The tree of all semantic IDs' prefixes, walked for many beams at once. Knows no model and no token.

Shapes:  N items   L levels   K codes of the largest level   B rows, such as beams
         W codes behind that one of B prefixes which has most
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.nn import functional as F

from ..codes import as_array, as_codes, check_range, level_sizes
from ..collisions import id_keys

NO_STATE = -1


class CodeTrie:
    """Which codes may follow which prefix, in a few batched operations on any device.

    A prefix is known by its *state*: 0 is the empty one, -1 stands for every prefix that no ID
    begins with. Neither an allowed mask nor a step looks at more than the rows it is asked for.

    States are numbered level by level, each prefix's continuations side by side in the order of
    their codes: one sorted array is the whole tree, a second says where in it each prefix's
    continuations begin. Of the first levels the masks themselves are kept. All together take 30 to
    90 bytes an ID of a million or more.

    Args:
        codes: (N, L) or (N,) integers; collisions are allowed.
        num_embeddings: K, or one for each level (a suffix is a level); None for as many as occur.
        device: where the tree is kept.

    Raises:
        ValueError: not codes, or a code that is not below its level's size.
    """

    def __init__(self, codes, num_embeddings=None, *, device="cpu"):
        codes = as_codes(codes)
        sizes = codes.max(axis=0) + 1 if num_embeddings is None else num_embeddings
        self.sizes = level_sizes(sizes, codes.shape[1])         # L numbers
        self.width = max(self.sizes)                            # K
        check_range(codes, self.sizes)
        if codes.size >= 2 ** 31 or self.width >= 2 ** 31:
            raise ValueError(f"{len(codes):,} IDs of {codes.shape[1]} codes below {self.width:,} do not fit 32-bit "
                             "numbers; split the items into several trees")
        # (N,) rows by ID; numpy takes three times as long.
        order = torch.from_numpy(id_keys(codes)).argsort().numpy()
        keys, first, leaf_starts = _levels(codes, order, self.width)
        places = np.empty(len(codes), np.int32)
        places[order] = np.arange(len(codes), dtype=np.int32)
        self._inner = len(first) - 2                            # states that go on; complete IDs lie behind
        self._keys = torch.from_numpy(keys).to(device)          # (states,) where one comes from * K + code, ascending
        self._first = _int32(first, device)                     # (inner + 2,) where a state's next ones begin
        self._leaf_starts = _int32(leaf_starts, device)         # (IDs + 1,) among the rows by ID
        self._rows = _int32(order, device)                      # (N,)
        self._places = _int32(places, device)                   # (N,) its inverse
        self._masks = self._first_masks()                       # (first states + 1, K + 1) bool
        self._left_out = []                                     # rows that nobody shall get, a list for each user
        self._gone = None                                       # sorted keys of the states that go with them

    def _first_masks(self):
        """The masks of the states before the first level whose masks would take more room than the tree."""
        room, states, level_ends = max(2 ** 22, 32 * len(self)) // (self.width + 1), 0, 1
        while level_ends <= min(room, self._inner):
            states, level_ends = level_ends, int(self._first[level_ends])
        if not states:
            return torch.zeros(0, 0, dtype=torch.bool, device=self.device)
        following = self._keys[1:int(self._first[states])]
        masks = torch.zeros(states + 1, self.width + 1, dtype=torch.bool, device=self.device)
        masks[following // self.width, following % self.width] = True
        return masks                                            # the last row is that of no state, -1

    def __len__(self):
        return len(self._rows)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.sizes)

    @property
    def has_users(self) -> bool:
        """Whether items are left out user by user."""
        return len(self._left_out) > 1

    @property
    def device(self) -> torch.device:
        """Where the tree is, and where states have to be."""
        return self._keys.device

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, torch.Tensor))

    def to(self, device) -> CodeTrie:
        """The same tree on another device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def start(self, rows=1) -> torch.Tensor:
        """The state of the empty prefix: (rows,) int64."""
        return torch.zeros(rows, dtype=torch.int64, device=self.device)

    def states(self, prefixes) -> torch.Tensor:
        """The states of prefixes of one length: (B, l) integers -> (B,) int64."""
        prefixes = torch.as_tensor(prefixes, device=self.device)
        states = self.start(len(prefixes))
        for codes in prefixes.unbind(dim=1):
            states = self.advance(states, codes)
        return states

    def allowed(self, states) -> torch.Tensor:
        """Which codes may come next: (B,) -> (B, K) bool; none behind a complete ID, or behind no prefix."""
        if len(states) and int(states.max()) < len(self._masks) - 1:
            mask = self._masks[states]                                          # (B, K + 1)
        else:
            mask = torch.zeros(len(states), self.width + 1, dtype=torch.bool, device=self.device)
            mask.scatter_(1, self._following(states)[0], True)
        if self._gone is not None:
            keys = self._parents(states) * self.width + self._of_users(states)
            begin, end = torch.searchsorted(self._gone, torch.stack([keys, keys + self.width]))
            places, there = _side_by_side(begin, end - begin)
            codes = self._gone[places] - keys[:, None] if len(self._gone) else places
            mask.scatter_(1, torch.where(there, codes, self.width), False)
        return mask[:, :self.width]

    def advance(self, states, codes) -> torch.Tensor:
        """The states one code further: (B,) and (B,) -> (B,), -1 where no ID goes on so.

        What `without` leaves out is still a state, which can be reached and has no way on.
        """
        keys = torch.where((codes >= 0) & (codes < self.width), self._parents(states) * self.width + codes, -2)
        following = torch.searchsorted(self._keys, keys).clamp_max(len(self._keys) - 1)
        return torch.where(self._keys[following] == keys, following, NO_STATE)

    def children(self, states) -> tuple:
        """Every way to go on: (B,) -> codes and states, (B, W) int64, by ascending code.

        Where a row has fewer than W its code is K and its state -1; what `without` leaves out has no state.
        """
        codes, following = self._following(states)
        if self._gone is not None and len(self._gone):
            keys = self._keys[following.clamp_min(0)] + self._of_users(states)[:, None]
            places = torch.searchsorted(self._gone, keys).clamp_max(len(self._gone) - 1)
            following = torch.where(self._gone[places] == keys, NO_STATE, following)
        return codes, following

    def log_probabilities(self, logits, states) -> torch.Tensor:
        """log p of each code, -inf for what no ID goes on with: (B, >= K) -> the same shape.

        The softmax is over all that there is, so that sums along a beam are the model's own log p of an ID.
        """
        if logits.dim() != 2 or logits.shape[1] < self.width:
            raise ValueError(f"logits have shape {tuple(logits.shape)}; for {self.width} codes they must be (rows, "
                             f"{self.width}) or wider")
        mask = F.pad(self.allowed(states), (0, logits.shape[1] - self.width))
        return logits.log_softmax(dim=1).masked_fill(~mask, float("-inf"))

    def rows_of(self, states) -> list:
        """The rows, ascending, of all items behind each of B states, complete IDs or not: a list of arrays."""
        low, high = states, states + 1
        for _ in range(self.num_levels):            # from a state to the first of its complete IDs, and behind the last
            above = (low >= 0) & (low < self._inner)
            low, high = (torch.where(above, self._first[edge.clamp(0, self._inner)].long(), edge)
                         for edge in (low, high))
        starts, rows = self._leaf_starts.cpu().numpy(), self._rows.cpu().numpy()
        return [np.sort(rows[starts[first - self._inner]:starts[last - self._inner]]) if first >= 0 else rows[:0]
                for first, last in zip(low.tolist(), high.tolist())]

    def without(self, *left_out) -> CodeTrie:
        """The same tree, nothing copied and nothing rebuilt, in which some items are left out.

        An ID that several items share goes when all of them do, a prefix when all its IDs do.

        Args:
            left_out: one list of rows, for everyone (sold out), or one for each of U users: B states then
                belong to the users in order, B / U to each, as beams do. What an earlier `without` left
                out stays out.

        Raises:
            ValueError: no integers, a row that is none of the items, or another number of users than before.
        """
        lists = [self._as_rows(rows) for rows in left_out]
        users = max(len(lists), len(self._left_out))
        if any(len(each) not in (0, 1, users) for each in (lists, self._left_out)):
            raise ValueError(f"items are left out for {len(self._left_out)} users already, now for {len(lists)}; give "
                             "one list for all, or one for each")
        narrowed = copy.copy(self)
        narrowed._left_out = [torch.cat([each[user % len(each)] for each in (self._left_out, lists) if each])
                              for user in range(users)]
        narrowed._gone = torch.cat([self._gone_with(rows) + user * len(self._first) * self.width
                                    for user, rows in enumerate(narrowed._left_out)]) if users else None
        return narrowed

    def _parents(self, states):
        """States, but for complete IDs and for no state one that nothing follows."""
        return torch.where(states < 0, self._inner, states).clamp_max(self._inner)

    def _following(self, states):
        """`children`, whatever is left out."""
        parents = self._parents(states)
        begin = self._first[parents].long()
        following, there = _side_by_side(begin, self._first[parents + 1] - begin)                  # (B, W)
        codes = self._keys[following] - (parents * self.width)[:, None]
        return torch.where(there, codes, self.width), torch.where(there, following, NO_STATE)

    def _of_users(self, states):
        """What to add to keys that are looked up among those of items left out: (B,)."""
        users = len(self._left_out)
        if len(states) % users:
            raise ValueError(f"items are left out for {users} users, but {len(states)} rows are not equally many for "
                             "each of them")
        user = torch.arange(len(states), device=self.device) // max(1, len(states) // users)
        return user * len(self._first) * self.width

    def _as_rows(self, rows):
        rows = as_array(rows)
        if rows.ndim != 1 or rows.size and rows.dtype.kind not in "iu":
            raise ValueError(f"items are left out by their rows, a list of integers, got {rows!r:.60}")
        outside = rows[(rows < 0) | (rows >= len(self))]
        if outside.size:
            raise ValueError(f"there is no row {outside[0]} to leave out among these {len(self):,}")
        return torch.from_numpy(rows.astype(np.int64))

    def _gone_with(self, rows):
        """The keys, ascending, of the states that have no item but these rows."""
        starts = self._leaf_starts
        leaves = torch.searchsorted(starts, self._places[rows.unique().to(self.device)], right=True) - 1
        leaves, counts = leaves.unique(return_counts=True)
        gone = [leaves[counts == starts[leaves + 1] - starts[leaves]] + self._inner]
        for _ in range(self.num_levels - 1):
            parents, counts = (self._keys[gone[-1]] // self.width).unique(return_counts=True)
            gone.append(parents[counts == self._first[parents + 1] - self._first[parents]])
        return self._keys[torch.cat(gone[::-1])]


def _side_by_side(begin, count):
    """begin, begin + 1, ... as many as `count` says: (B,) -> (B, W) positions, and which of them are meant."""
    steps = torch.arange(max(1, int(count.max())) if len(count) else 1, device=begin.device)
    there = steps < count[:, None]
    return torch.where(there, begin[:, None] + steps, 0), there


def _levels(codes, order, size):
    """Keys, first continuations and first rows, level by level in one pass over the sorted columns."""
    keys, first, begin = [np.array([-1])], [], 1
    new, above, parents = np.zeros(len(codes), bool), np.zeros(1, np.int64), np.zeros(len(codes), np.int32)
    new[0] = True
    for column in codes.T:
        column = column[order]
        new[1:] |= column[1:] != column[:-1]
        starts = np.flatnonzero(new)                                    # the rows where this level's states begin
        keys.append(parents[starts].astype(np.int64) * size + column[starts])
        parents = np.cumsum(new, dtype=np.int32) + np.int32(begin - 1)  # (N,) the state of each row
        first.append(parents[above])
        begin, above = begin + len(starts), starts
    return np.concatenate(keys), np.concatenate([*first, [begin, begin]]), np.append(above, len(codes))


def _int32(values, device):
    return torch.from_numpy(np.asarray(values, np.int32)).to(device)
