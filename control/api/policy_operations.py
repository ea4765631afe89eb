"""The operations on versions and on what is in force.

Invariant: an operation only asks and translates; the rules are versions.py's. Neighbours: shapes.py (bodies),
app.py (gives the parts).
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct, structs

from control.api import shapes
from control.api.operation import Answer, ApiError, Call, Operation
from control.guard import Verdict
from control.publish import Standing
from control.store import State, Store, StoreUnavailableError, VersionFacts
from control.tokens import Role
from control.validation import FleetFacts, doubts_of
from control.versions import ConflictError, NoSuchVersionError, Versions
from router.config import ConfigError, parse_document
from router.config_source import read_source
from router.schema.policy_document import ClearSecretError, PolicyDocument

Change = Callable[[Call], Awaitable[Any]]

NUMBER = {"version": "A version's number."}


class PolicyOperations:
    """What the policy's part of the API does."""

    def __init__(
        self,
        versions: Versions,
        store: Store,
        *,
        standing: Callable[[], Standing],
        applied: Callable[[float], Awaitable[None]],
        facts: Callable[[], FleetFacts],
        verdict: Callable[[], Verdict | None],
    ) -> None:
        """`applied` returns once the connected routers have the newest snapshot, or after so many seconds."""
        self._versions = versions
        self._store = store
        self._standing = standing
        self._applied = applied
        self._facts = facts
        self._verdict = verdict

    def table(self) -> list[Operation]:
        """All of them."""
        changes: list[tuple[str, str, type[Struct], Change, tuple[int, ...]]] = [
            ("activate", "Put a version in force everywhere.", shapes.ActivateBody, self._activate, (404,)),
            ("canary", "Give a version to a share of the sessions.", shapes.CanaryBody, self._canary, (404,)),
            ("promote", "Put the canary in force everywhere.", shapes.ReasonBody, self._promote, ()),
            (
                "rollback",
                "Take back the canary, or the last activation.",
                shapes.RollbackBody,
                self._rollback,
                (404,),
            ),
            ("freeze", "Refuse changes but rollbacks.", shapes.ReasonBody, self._freeze, ()),
            ("unfreeze", "Allow changes again.", shapes.ReasonBody, self._unfreeze, ()),
        ]
        return [
            Operation(
                name="validate",
                method="POST",
                path="/v1/validate",
                summary="Check a document against the fleet as it is now; nothing changes.",
                tag="policy",
                role=Role.VIEWER,
                handler=self._validate,
                body=shapes.DocumentBody,
                answer=shapes.Findings,
            ),
            Operation(
                name="pushVersion",
                method="POST",
                path="/v1/versions",
                summary="Keep a document as the next version. It is not in force before it is activated.",
                tag="policy",
                role=Role.OPERATOR,
                handler=_guarded(self._push),
                body=shapes.PushBody,
                answer=shapes.VersionRow,
                status=201,
                errors=(409, 422, 503),
            ),
            Operation(
                name="listVersions",
                method="GET",
                path="/v1/versions",
                summary="Versions, the newest first.",
                tag="policy",
                role=Role.VIEWER,
                handler=_guarded(self._list),
                query=shapes.PageQuery,
                answer=shapes.VersionPage,
                errors=(503,),
            ),
            Operation(
                name="getVersion",
                method="GET",
                path="/v1/versions/{version}",
                summary="One version as it was pushed.",
                tag="policy",
                role=Role.VIEWER,
                handler=_guarded(self._get),
                answer=shapes.VersionWhole,
                errors=(404, 503),
                path_fields=NUMBER,
            ),
            Operation(
                name="diffVersions",
                method="GET",
                path="/v1/diff",
                summary="What a version changes of another.",
                tag="policy",
                role=Role.VIEWER,
                handler=_guarded(self._diff),
                query=shapes.DiffQuery,
                answer=shapes.Difference,
                errors=(404, 503),
            ),
            Operation(
                name="getPolicy",
                method="GET",
                path="/v1/policy",
                summary="What is desired, and how far it has come.",
                tag="policy",
                role=Role.VIEWER,
                handler=self._policy,
                answer=shapes.PolicyAnswer,
            ),
            *(
                Operation(
                    name=f"{word}Policy",
                    method="POST",
                    path=f"/v1/policy/{word}",
                    summary=summary,
                    tag="policy",
                    role=Role.OPERATOR,
                    handler=_guarded(self._changing(change)),
                    body=body,
                    answer=shapes.PolicyAnswer,
                    errors=(*errors, 409, 412, 503),
                )
                for word, summary, body, change, errors in changes
            ),
        ]

    def _changing(self, change: Change) -> Change:
        """Refuses a change by somebody who has seen another state, and waits for routers where that is
        asked.
        """

        async def handle(call: Call) -> Answer:
            revision = self._versions.state.revision
            if call.if_match and call.if_match != str(revision):
                raise ApiError(412, "changed", f"the policy is at revision {revision}, not {call.if_match}")
            begun_s = time.monotonic()
            await change(call)
            if not call.body.wait_ms:
                return self._answer()
            await self._applied(call.body.wait_ms / 1000)
            return self._answer(waited_ms=(time.monotonic() - begun_s) * 1000)

        return handle

    async def _validate(self, call: Call) -> shapes.Findings:
        findings: list[shapes.Finding] = []
        left_out: list[str] = []
        try:
            config = parse_document(call.body.source, call.body.file)
            document = PolicyDocument.of(config)
            left_out = _left_out(call.body.source, call.body.file)
            findings += [
                shapes.Finding(severity="warning", path=doubt.path, message=doubt.message)
                for doubt in doubts_of(document, self._facts())
            ]
        except ConfigError as exc:
            findings += [
                shapes.Finding(severity="error", path=problem.path, message=str(problem))
                for problem in exc.problems
            ]
        except ClearSecretError as exc:
            findings.append(shapes.Finding(severity="error", path="", message=str(exc)))
        return shapes.Findings(findings=findings, left_out=left_out)

    async def _push(self, call: Call) -> shapes.VersionRow:
        body: shapes.PushBody = call.body
        version = await self._versions.push(
            body.source, body.file, actor=call.actor.name, why=body.message, parent=body.parent
        )
        return self._row(version)

    async def _list(self, call: Call) -> shapes.VersionPage:
        rows = await self._store.versions(call.query.limit + 1, call.query.before)
        shown = rows[: call.query.limit]
        return shapes.VersionPage(
            versions=[self._row(version) for version in shown],
            next=shown[-1].number if len(rows) > len(shown) else None,
        )

    async def _get(self, call: Call) -> shapes.VersionWhole:
        number = call.path["version"]
        version = await self._store.version(int(number)) if number.isdecimal() and len(number) < 18 else None
        if version is None:
            raise NoSuchVersionError(f"there is no version {number}")
        row = self._row(version)
        return shapes.VersionWhole(
            **{name: getattr(row, name) for name in row.__struct_fields__}, source=version.source
        )

    async def _diff(self, call: Call) -> shapes.Difference:
        old, new, lines = await self._versions.difference(call.query.old, call.query.new)
        return shapes.Difference(old=old, new=new, lines=lines)

    async def _policy(self, _call: Call) -> Answer:
        return self._answer()

    async def _activate(self, call: Call) -> None:
        body: shapes.ActivateBody = call.body
        await self._versions.activate(body.version, actor=call.actor.name, why=body.message)

    async def _canary(self, call: Call) -> None:
        body: shapes.CanaryBody = call.body
        await self._versions.canary(body.version, body.ratio, actor=call.actor.name, why=body.message)

    async def _promote(self, call: Call) -> None:
        await self._versions.promote(actor=call.actor.name, why=call.body.message)

    async def _rollback(self, call: Call) -> None:
        body: shapes.RollbackBody = call.body
        await self._versions.rollback(body.version, actor=call.actor.name, why=body.message)

    async def _freeze(self, call: Call) -> None:
        await self._versions.freeze(True, actor=call.actor.name, why=call.body.message)

    async def _unfreeze(self, call: Call) -> None:
        await self._versions.freeze(False, actor=call.actor.name, why=call.body.message)

    def _answer(self, waited_ms: float = 0.0) -> Answer:
        state = self._versions.state
        verdict = self._verdict() if state.canary else None
        body = policy_answer(state, self._standing(), waited_ms=waited_ms)
        if verdict is not None:
            body = structs.replace(body, guard=f"{verdict.action}: {verdict.reason}")
        return Answer(body=body, etag=str(state.revision))

    def _row(self, version: VersionFacts) -> shapes.VersionRow:
        state = self._versions.state
        stands = {state.stable: "stable", state.canary: "canary"}.get(version.number, "")
        return shapes.VersionRow(
            version=version.number,
            hash=version.hash,
            parent=version.parent,
            author=version.author,
            message=version.message,
            created_at=utc(version.created_at),
            state=stands,
        )


def policy_answer(state: State, standing: Standing, *, waited_ms: float = 0.0) -> shapes.PolicyAnswer:
    """What is desired, and how far it has come."""
    return shapes.PolicyAnswer(
        revision=state.revision,
        stable=state.stable,
        canary=state.canary or None,
        canary_ratio=state.canary_ratio,
        previous=state.previous or None,
        is_frozen=state.is_frozen,
        sequence=standing.sequence,
        snapshot=standing.snapshot_id,
        routers_applied=standing.applied_count,
        routers_connected=standing.connected_count,
        waited_ms=round(waited_ms, 3),
    )


def utc(seconds: float) -> str:
    """A time as people and programs read it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _left_out(source: str, file: str) -> list[str]:
    """Sections of a file that are each router's own."""
    values = read_source(source, file, {}, is_elsewhere=True).values
    kept = {*PolicyDocument.__struct_fields__, "version"}
    return sorted(set(values) - kept) if isinstance(values, dict) else []


def _guarded(handler: Callable[[Call], Awaitable[Any]]) -> Callable[[Call], Awaitable[Any]]:
    """The rules' refusals as answers."""

    async def handle(call: Call) -> Any:
        try:
            return await handler(call)
        except ConfigError as exc:
            lines = [str(problem) for problem in exc.problems]
            raise ApiError(422, "document", "the document cannot be served", detail=lines) from exc
        except ClearSecretError as exc:
            raise ApiError(422, "secret", str(exc)) from exc
        except ConflictError as exc:
            raise ApiError(409, "conflict", str(exc), detail=exc.lines or None) from exc
        except NoSuchVersionError as exc:
            raise ApiError(404, "no_version", str(exc)) from exc
        except StoreUnavailableError as exc:
            raise ApiError(503, "store", str(exc), retry_after_s=5) from exc

    return handle
