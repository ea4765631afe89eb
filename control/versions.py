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
from router import limits
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
        while True:
            before = self.state
            state = await self._store.state()
            documents = await self._documents_of(state)
            if self.state is before:  # else a change has ended meanwhile, and this may be older
                return self._take(state, documents)

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
        for _attempt in range(limits.PUSH_ATTEMPTS_MAX):
            state, newest = await self._store.state(), await self._newest()
            documents = await self._documents_of(state)
            if parent is not None and parent != newest:
                lines = differences(await self._document(newest), document) if newest else []
                raise ConflictError(
                    f"the newest version is {newest}, not {parent}; this is what yours would change of it",
                    lines,
                )
            version = Version(
                number=newest + 1,
                hash=document_hash(data),
                parent=newest,
                author=actor,
                message=why,
                created_at=self._clock(),
                file=file,
                source=source,
                document=data,
            )
            entry = Entry(actor=actor, action="push", old=_named(newest), new=_named(newest + 1), why=why)
            try:
                after = await self._store.change(state, entry, version)
            except RevisionConflictError:
                continue  # a push hangs on the newest version alone, whatever else has changed
            self._take(after, documents)
            return version
        raise ConflictError("others push without a pause: look again, and repeat what is still wanted")

    async def activate(self, number: int, *, actor: str, why: str) -> State:
        """Puts a version in force for everybody. Raises: NoSuchVersionError, ConflictError,
        StoreUnavailableError.
        """
        state = self.state
        await self._document(number)
        _refuse_frozen(state)
        if state.stable == number and not state.canary:
            return state
        entry = Entry(actor=actor, action="activate", old=_named(state.stable), new=_named(number), why=why)
        return await self._change(_in_force(state, number), entry)

    async def canary(self, number: int, ratio: float, *, actor: str, why: str) -> State:
        """Gives a version to a share of the sessions, beside the one in force. Raises: as `activate`."""
        state = self.state
        await self._document(number)
        _refuse_frozen(state)
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
        state = self.state
        _refuse_frozen(state)
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
        await self._document(wanted)
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
        first = old or self.state.stable
        second = new or await self._newest()
        return first, second, differences(await self._document(first), await self._document(second))

    async def _newest(self) -> int:
        found = await self._store.versions(1)
        return found[0].number if found else 0

    async def _document(self, number: int) -> PolicyDocument:
        known = self._documents.get(number)
        if known is not None:
            return known
        version = await self._store.version(number)
        if version is None:
            raise NoSuchVersionError(
                f"there is no version {number}; `fairlead policy list` shows those there are"
            )
        return decode_document(version.document)

    async def _change(self, state: State, entry: Entry) -> State:
        documents = await self._documents_of(state)  # first: what is changed must be published
        try:
            after = await self._store.change(state, entry)
        except RevisionConflictError as exc:
            await self.load()
            raise ConflictError(f"{exc}: look again, and repeat what is still wanted") from exc
        self._take(after, documents)
        return after

    async def _documents_of(self, state: State) -> dict[int, PolicyDocument]:
        return {number: await self._document(number) for number in (state.stable, state.canary) if number}

    def _take(self, state: State, documents: dict[int, PolicyDocument]) -> None:
        self.state, self._documents = state, documents
        self._on_change()


def _refuse_frozen(state: State) -> None:
    if state.is_frozen:
        raise ConflictError("the policy is frozen: `fairlead policy unfreeze` allows changes again")


def _in_force(state: State, number: int) -> State:
    previous = state.stable if state.stable != number else state.previous
    return structs.replace(state, stable=number, previous=previous, canary=0, canary_ratio=0.0)


def _named(number: int) -> str:
    return f"version {number}" if number else "nothing"
