"""The model list is the union over pools that live, and no endpoint can spoil it."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import trustme
from aiohttp import web

from router.config import parse_config
from router.model_list import KEPT_S, ModelList
from router.native.loadtable import LoadTable
from router.schema.config import Config
from router.snapshot import Tables, build_tables, route_names

NOW_S = 1000.0
HOUR_US = 3_600_000_000


def tables_of(config: Config) -> Tables:
    names = [endpoint.name for pool in config.pools for endpoint in pool.endpoints]
    slots = {name: slot for slot, name in enumerate(names)}
    return build_tables(config, slots, dict.fromkeys(route_names(config), 0))


def test_names_of_pools_with_a_living_endpoint_are_listed_once() -> None:
    config = parse_config(
        """
        pools:
          - name: a
            endpoints: [{url: "http://a:1", models: [m1, m2]}, {url: "http://b:1", models: [m2, m3]}]
          - name: b
            endpoints: [{url: "http://c:1", models: [m4]}]
        """
    )
    load = LoadTable.create(8, 1)
    models = ModelList(lambda: tables_of(config), load, lambda: NOW_S)

    def names() -> list[str]:
        return asyncio.run(models.names())

    assert names() == ["m1", "m2", "m3", "m4"]
    eject(load, 0)
    assert names() == ["m1", "m2", "m3", "m4"]  # its pool still has b
    eject(load, 1)
    assert names() == ["m4"]
    eject(load, 2)
    assert names() == []


def test_endpoints_without_names_are_asked_and_a_failing_one_keeps_its_last_answer() -> None:
    async def test() -> None:
        answers = [
            web.json_response({"object": "list", "data": [{"id": "x", "extra": 1}, {"id": "y"}]}),
            web.Response(status=500),
            web.Response(text="no json"),
        ]
        asked: list[str] = []

        async def engine(request: web.Request) -> web.StreamResponse:
            asked.append(request.headers.get("Authorization", ""))
            return answers[min(len(asked), len(answers)) - 1]

        async with Served(engine) as port:
            config = parse_config(
                f"""
                pools:
                  - name: p
                    endpoints:
                      - {{url: "http://127.0.0.1:{port}/prefix", name: e, auth: {{bearer: k3y}}}}
                      - {{url: "http://127.0.0.1:9", name: nobody}}
                """
            )
            load = LoadTable.create(8, 1)
            now_s = NOW_S
            models = ModelList(lambda: tables_of(config), load, lambda: now_s)
            assert await models.names() == ["x", "y"]
            assert await models.names() == ["x", "y"]
            assert asked == ["Bearer k3y"]  # kept for a while
            for _ in range(2):
                now_s += KEPT_S
                assert await models.names() == ["x", "y"]
            assert len(asked) == 3
            await models.close()

    asyncio.run(test())


def test_an_endpoint_is_asked_over_tls_as_it_is_configured(tmp_path: Path) -> None:
    ours = trustme.CA()
    ca_file, client_file = str(tmp_path / "ca.pem"), str(tmp_path / "client.pem")
    ours.cert_pem.write_to_path(ca_file)
    ours.issue_cert("router.example").private_key_and_cert_chain_pem.write_to_path(client_file)
    demanding = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_file)
    demanding.verify_mode = ssl.CERT_REQUIRED
    ours.issue_cert("engine.example").configure_cert(demanding)
    listed = {"object": "list", "data": [{"id": "x"}]}

    async def engine(_request: web.Request) -> web.StreamResponse:
        return web.json_response(listed)

    async def names(url: str, tls: dict[str, str]) -> list[str]:
        endpoint = {"url": url, "name": "e", "tls": tls}
        config = parse_config(json.dumps({"pools": [{"name": "p", "endpoints": [endpoint]}]}))
        load = LoadTable.create(8, 1)
        models = ModelList(lambda: tables_of(config), load)
        try:
            return await models.names()
        finally:
            await models.close()

    async def test() -> None:
        async with Served(engine, demanding) as port:
            url = f"https://127.0.0.1:{port}"
            known = {"ca_file": ca_file, "server_name": "engine.example"}
            shown = {"cert_file": client_file, "key_file": client_file}
            assert await names(url, known | shown) == ["x"]
            assert await names(url, known) == []
            assert await names(url, {"server_name": "engine.example"} | shown) == []
            assert await names(url, {"ca_file": ca_file} | shown) == []

    asyncio.run(test())


class Served:
    """A server of one handler for every path; its port."""

    def __init__(
        self,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._context = context
        application = web.Application()
        application.router.add_get("/{path:.*}", handler)
        self._runner = web.AppRunner(application)

    async def __aenter__(self) -> int:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context).start()
        return int(self._runner.addresses[0][1])

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def eject(load: LoadTable, slot: int) -> None:
    load.eject(slot, int(NOW_S * 1e6), HOUR_US, HOUR_US)
