"""The operations that show control, the routers and the audit chain as they are.

Invariant: nothing here changes anything. Neighbours: shapes.py (bodies), app.py (gives the parts).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from control import audit
from control.api import shapes
from control.api.operation import ApiError, Call, Operation
from control.api.policy_operations import policy_answer, utc
from control.link import LinkServer, RouterLink
from control.publish import Standing
from control.store import Store, StoreUnavailableError
from control.supervision import Supervision
from control.tokens import Role
from control.versions import Versions
from router.build_info import package_version


class LiveOperations:
    """What the rest of the API does."""

    def __init__(
        self,
        *,
        name: str,
        public_key: str,
        store: Store,
        versions: Versions,
        server: LinkServer,
        tasks: Supervision,
        standing: Callable[[], Standing],
    ) -> None:
        self._name = name
        self._public_key = public_key
        self._store = store
        self._versions = versions
        self._server = server
        self._tasks = tasks
        self._standing = standing
        self._begun_s = time.monotonic()

    def table(self) -> list[Operation]:
        """All of them."""
        return [
            Operation(
                name="getStatus",
                method="GET",
                path="/v1/status",
                summary="Control at a glance.",
                tag="live",
                role=Role.VIEWER,
                handler=self._status,
                answer=shapes.StatusAnswer,
            ),
            Operation(
                name="listRouters",
                method="GET",
                path="/v1/routers",
                summary="The connected routers, by name.",
                tag="live",
                role=Role.VIEWER,
                handler=self._routers,
                answer=shapes.RouterList,
            ),
            Operation(
                name="listAudit",
                method="GET",
                path="/v1/audit",
                summary="Audit records, the newest first.",
                tag="audit",
                role=Role.VIEWER,
                handler=self._audit,
                query=shapes.PageQuery,
                answer=shapes.AuditPage,
                errors=(503,),
            ),
            Operation(
                name="verifyAudit",
                method="GET",
                path="/v1/audit/verify",
                summary="Whether no record was altered, removed or moved.",
                tag="audit",
                role=Role.VIEWER,
                handler=self._verify,
                answer=shapes.AuditVerdict,
                errors=(503,),
            ),
        ]

    async def _status(self, _call: Call) -> shapes.StatusAnswer:
        return shapes.StatusAnswer(
            name=self._name,
            release=package_version(),
            uptime_s=int(time.monotonic() - self._begun_s),
            public_key=self._public_key,
            store=await self._store.trouble() or "ok",
            policy=policy_answer(self._versions.state, self._standing()),
            tasks={watched.name: watched.failure_count for watched in self._tasks.describe()},
        )

    async def _routers(self, _call: Call) -> shapes.RouterList:
        sequence = self._standing().sequence
        return shapes.RouterList(routers=[_row(router, sequence) for router in self._server.routers])

    async def _audit(self, call: Call) -> shapes.AuditPage:
        try:
            rows = await self._store.records(call.query.limit + 1, call.query.before)
        except StoreUnavailableError as exc:
            raise ApiError(503, "store", str(exc), retry_after_s=5) from exc
        shown = rows[: call.query.limit]
        return shapes.AuditPage(
            records=[
                shapes.AuditRow(
                    number=record.number,
                    at=record.at,
                    actor=record.actor,
                    action=record.action,
                    old=record.old,
                    new=record.new,
                    why=record.why,
                    previous_hash=record.previous_hash,
                    hash=record.hash,
                )
                for record in shown
            ],
            next=shown[-1].number if len(rows) > len(shown) else None,
        )

    async def _verify(self, _call: Call) -> shapes.AuditVerdict:
        try:
            check = await audit.check_chain(self._store)
        except StoreUnavailableError as exc:
            raise ApiError(503, "store", str(exc), retry_after_s=5) from exc
        more = [f"and {check.left_out_count} more"] if check.left_out_count else []
        return shapes.AuditVerdict(
            is_whole=not check.faults, records=check.count, faults=[*check.faults, *more]
        )


def _row(router: RouterLink, sequence: int) -> shapes.RouterRow:
    report = router.report
    return shapes.RouterRow(
        router=router.name,
        instance=router.hello.instance,
        region=router.hello.region,
        release=router.hello.release,
        peer=router.peer,
        connected_at=utc(router.connected_at),
        sequence=router.sequence,
        is_current=router.sequence == sequence,
        refusal=router.refusal,
        apply_ms=0.0 if router.ack is None else router.ack.apply_us / 1000,
        reported_ago_ms=None if report is None else int((time.monotonic() - router.reported_s) * 1000),
        loop_lag_ms=0.0 if report is None else report.loop_lag_us / 1000,
    )
