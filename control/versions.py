"""The rules of versions: what may become of what is desired, and by whom it is said to have been done.

    push ─► version N ─► canary N, ratio ─► promote ─► stable N ─► rollback ─► stable before
                      └────── activate ───────────────►

Invariant: a version never changes; each change here is one change of the store with its audit record; while
frozen, only a rollback changes what is in force. Neighbours: store.py (keeps it), difference.py (what
versions differ in), publish.py (sends what is desired).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import structs

from control.difference import differences
from control.publish import Desired
from control.store import Entry, RevisionConflictError, State, Store, Version
from router.config import parse_document
from router.schema.policy_document import (
    PolicyDocument,
    decode_document,
    document_hash,
    encode_document,
)


class ConflictError(Exception):
    """It is not possible as things are; `lines` say how they are."""

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


class NoSuchVersionError(Exception):
    """There is no version of that number."""


class Versions:
    """What is desired, and how it changes."""

    def __init__(
        self,
        store: Store,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_change` is called when what is desired may be another."""
        self._store = store
        self._on_change = on_change
        self._clock = clock
        self.state = State()
        self._documents: dict[int, PolicyDocument] = {}

    async def load(self) -> None:
        """Reads what is desired. Raises: StoreUnavailableError."""
        await self._keep(await self._store.state())

    def desired(self) -> Desired | None:
        """What is to be in force, as far as it was ever read; None: nothing yet. Needs no store."""
        state = self.state
        if not state.stable:
            return None
        return Desired(
            stable_version=state.stable,
            stable=self._documents[state.stable],
            canary_version=state.canary,
            canary=self._documents.get(state.canary),
            canary_ratio=state.canary_ratio,
        )

    async def push(
        self, source: str, file: str, *, actor: str, why: str, parent: int | None = None
    ) -> Version:
        """Keeps a document as the next version.

        Raises: ConfigError, ClearSecretError for a document that is none; ConflictError when the newest
        version is not `parent`; StoreUnavailableError.
        """
        document = PolicyDocument.of(parse_document(source, file))
        data = encode_document(document)
        newest = await self._newest()
        head = 0 if newest is None else newest.number
        if parent is not None and parent != head:
            lines = [] if newest is None else differences(decode_document(newest.document), document)
            raise ConflictError(
                f"the newest version is {head}, not {parent}; this is what yours would change of it",
                lines,
            )
        version = Version(
            number=head + 1,
            hash=document_hash(data),
            parent=head,
            author=actor,
            message=why,
            created_at=self._clock(),
            file=file,
            source=source,
            document=data,
        )
        entry = Entry(actor=actor, action="push", old=_named(head), new=_named(version.number), why=why)
        await self._change(self.state, entry, version)
        return version

    async def activate(self, number: int, *, actor: str, why: str) -> State:
        """Puts a version in force for everybody. Raises: NoSuchVersionError, ConflictError,
        StoreUnavailableError.
        """
        await self._need(number)
        self._refuse_frozen()
        state = self.state
        if state.stable == number and not state.canary:
            return state
        entry = Entry(actor=actor, action="activate", old=_named(state.stable), new=_named(number), why=why)
        return await self._change(_in_force(state, number), entry)

    async def canary(self, number: int, ratio: float, *, actor: str, why: str) -> State:
        """Gives a version to a share of the sessions, beside the one in force. Raises: as `activate`."""
        await self._need(number)
        self._refuse_frozen()
        state = self.state
        if not state.stable:
            raise ConflictError(
                "nothing is in force that a canary could be compared with; activate a version first"
            )
        if number == state.stable:
            raise ConflictError(f"version {number} is in force for everybody")
        old = f"{_named(state.canary)} {state.canary_ratio:g}" if state.canary else _named(state.stable)
        entry = Entry(actor=actor, action="canary", old=old, new=f"{_named(number)} {ratio:g}", why=why)
        return await self._change(structs.replace(state, canary=number, canary_ratio=ratio), entry)

    async def promote(self, *, actor: str, why: str) -> State:
        """Puts the canary in force for everybody. Raises: as `activate`."""
        self._refuse_frozen()
        state = self.state
        if not state.canary:
            raise ConflictError("there is no canary to promote")
        entry = Entry(
            actor=actor, action="promote", old=_named(state.stable), new=_named(state.canary), why=why
        )
        return await self._change(_in_force(state, state.canary), entry)

    async def rollback(self, number: int | None = None, *, actor: str, why: str) -> State:
        """Ends the canary, if there is one; else goes back to what was in force before, or to `number`.

        Possible while frozen. Raises: NoSuchVersionError, ConflictError, StoreUnavailableError.
        """
        state = self.state
        if number is None and state.canary:
            entry = Entry(
                actor=actor, action="rollback", old=_named(state.canary), new=_named(state.stable), why=why
            )
            return await self._change(structs.replace(state, canary=0, canary_ratio=0.0), entry)
        wanted = state.previous if number is None else number
        if not wanted:
            raise ConflictError("nothing was in force before; name a version")
        await self._need(wanted)
        if wanted == state.stable and not state.canary:
            return state
        entry = Entry(actor=actor, action="rollback", old=_named(state.stable), new=_named(wanted), why=why)
        return await self._change(_in_force(state, wanted), entry)

    async def freeze(self, is_frozen: bool, *, actor: str, why: str) -> State:
        """Refuses changes but rollbacks from now on, or allows them again. Raises: StoreUnavailableError."""
        state = self.state
        if state.is_frozen == is_frozen:
            return state
        action = "freeze" if is_frozen else "unfreeze"
        entry = Entry(actor=actor, action=action, old=_named(state.stable), new=_named(state.stable), why=why)
        return await self._change(structs.replace(state, is_frozen=is_frozen), entry)

    async def difference(self, old: int, new: int) -> tuple[int, int, list[str]]:
        """What `new` (0: the newest) changes of `old` (0: what is in force). Raises: NoSuchVersionError."""
        newest = await self._newest()
        first = old or self.state.stable
        second = new or (0 if newest is None else newest.number)
        return first, second, differences(await self._document(first), await self._document(second))

    async def _newest(self) -> Version | None:
        found = await self._store.versions(1)
        return found[0] if found else None

    async def _need(self, number: int) -> None:
        await self._document(number)

    async def _document(self, number: int) -> PolicyDocument:
        version = await self._store.version(number)
        if version is None:
            raise NoSuchVersionError(
                f"there is no version {number}; `fairlead policy list` shows those there are"
            )
        return decode_document(version.document)

    def _refuse_frozen(self) -> None:
        if self.state.is_frozen:
            raise ConflictError("the policy is frozen: `fairlead policy unfreeze` allows changes again")

    async def _change(self, state: State, entry: Entry, version: Version | None = None) -> State:
        try:
            after = await self._store.change(state, entry, version)
        except RevisionConflictError as exc:
            await self.load()
            raise ConflictError(f"{exc}: look again, and repeat what is still wanted") from exc
        await self._keep(after)
        return after

    async def _keep(self, state: State) -> None:
        wanted = {number for number in (state.stable, state.canary) if number}
        documents = {number: self._documents.get(number) or await self._document(number) for number in wanted}
        self.state, self._documents = state, documents
        self._on_change()


def _in_force(state: State, number: int) -> State:
    previous = state.stable if state.stable != number else state.previous
    return structs.replace(state, stable=number, previous=previous, canary=0, canary_ratio=0.0)


def _named(number: int) -> str:
    return f"version {number}" if number else "nothing"
