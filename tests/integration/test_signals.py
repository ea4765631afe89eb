"""Signals in the whole router: engines tell, handshakes measure, operators see."""

from bench.mock.fleet import EngineSpec, Fleet
from tests.support.raw_peer import chat, dial, request
from tests.support.router_process import running_router


def test_load_reports_and_round_trips_are_seen_and_stay_inside() -> None:
    spec = EngineSpec(engine_class="instant", models=("tiny",))
    with Fleet([spec]) as engines:
        endpoint = {"name": "one", "url": engines.urls[0], "load_report": "read"}
        with running_router({"workers": 1, "pools": [{"name": "all", "endpoints": [endpoint]}]}) as router:
            with dial(router.address) as client:
                client.send(request(chat(), path="/v1/chat/completions"))
                status, fields, _body = client.take_response()
            assert status == 200
            assert "endpoint-load-metrics" not in fields
            signals = router.debug_endpoints()[0]["signals"]
            assert {name: told["source"] for name, told in signals.items()} == {
                "waiting": "header",
                "kv": "header",
                "rtt_s": "local",
            }
            assert 0 < signals["rtt_s"]["value"] < 1
            assert all(told["age_ms"] < 60_000 for told in signals.values())
            page = router.metrics()
            assert page.sum("fairlead_endpoint_signal_age_seconds", endpoint="one", signal="kv") >= 0
            assert page.sum("fairlead_signals_rejected_total") == 0
