"""The accounts of the load table, the slow and obvious way: all open charges in a list, summed when asked.

Tells what router/native/account.pyx must: sums per slot over all columns, the oldest pending charge, and how
far its engine has come with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TICK_US = 10
TOKENS_MAX = 1 << 22
TICKS_MAX = 1 << 24


@dataclass(eq=False)
class OpenCharge:
    """One attempt that is open."""

    column: int
    slot: int
    begun_us: int
    uncached_tokens: int
    work_us: int
    kv_tokens: int
    is_pending: bool = True

    @property
    def queued_tokens(self) -> int:
        return min(self.uncached_tokens, TOKENS_MAX)

    @property
    def ticks(self) -> int:
        return min(self.work_us // TICK_US, TICKS_MAX)


@dataclass
class Accounts:
    """All open charges, in the order they were made."""

    charges: list[OpenCharge] = field(default_factory=list)
    last_first_token_us: dict[int, int] = field(default_factory=dict)

    def charge(self, charge: OpenCharge) -> OpenCharge:
        self.charges.append(charge)
        return charge

    def first_token(self, charge: OpenCharge, now_us: int) -> None:
        if charge in self.charges and charge.is_pending:
            charge.is_pending = False
            if charge.ticks:
                before_us = self.last_first_token_us.get(charge.slot, 0)
                self.last_first_token_us[charge.slot] = max(before_us, now_us)

    def release(self, charge: OpenCharge) -> None:
        if charge in self.charges:
            self.charges.remove(charge)

    def clear(self, column: int) -> int:
        """A worker died: everything of its column goes; how many were open."""
        before_count = len(self.charges)
        self.charges = [charge for charge in self.charges if charge.column != column]
        return before_count - len(self.charges)

    def at(self, slot: int) -> dict[str, int]:
        """The account of a slot, by the names of LoadView."""
        here = [charge for charge in self.charges if charge.slot == slot]
        pending = [charge for charge in here if charge.is_pending]
        return {
            "in_flight": len(here),
            "pending": len(pending),
            "queued_tokens": sum(charge.queued_tokens for charge in pending),
            "queued_work_us": sum(charge.ticks for charge in pending) * TICK_US,
            "kv_tokens": sum(min(charge.kv_tokens, TOKENS_MAX) for charge in here),
            "oldest_pending_us": min((charge.begun_us for charge in pending), default=0),
        }

    def progress_us(self, slot: int, now_us: int) -> list[int]:
        """What may be said of the oldest pending charge; several when two columns have equally old ones."""
        pending = [charge for charge in self.charges if charge.slot == slot and charge.is_pending]
        if not pending:
            return [0]
        begun_us = min(charge.begun_us for charge in pending)
        since_us = max(begun_us, self.last_first_token_us.get(slot, 0))
        heads = []
        for column in {charge.column for charge in pending}:
            head = next(charge for charge in pending if charge.column == column)
            if head.begun_us == begun_us:
                heads.append(head)
        return [min(head.ticks * TICK_US, max(now_us - since_us, 0)) for head in heads]
