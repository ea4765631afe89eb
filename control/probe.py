"""One probe: what each engine is asked, and how its answer is read.

A health page is asked for over a connection of its own, as a request's would be, so that an engine which no
longer accepts is found out; or a token is generated; or, where nothing is known of the software, a connection
is all. Redirects are not followed, since a key would follow them, and of an answer no more is read than its
bound. Invariant: whatever an endpoint does ends in a `Probed` within the time given, and shows no key.
Neighbours: health.py (what it means), health_checker.py (when, and how many at once).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from control.health import Answer, Probed, ProbeKind
from control.health_settings import GenerationApi, HealthSettings
from router import limits
from router.schema.address import parse_endpoint_url
from router.schema.config import Endpoint, EndpointTls, Engine
from router.schema.secret import MASK, Secret

Clock = Callable[[], float]

PATHS: dict[Engine, str] = {
    Engine.VLLM: "/health",
    Engine.SGLANG: "/health",
    Engine.TGI: "/health",
    Engine.TRTLLM: "/health",
    Engine.TRITON: "/v2/health/ready",
    Engine.LLAMACPP: "/health",
    Engine.OLLAMA: "/",
    Engine.OPENAI: "/v1/models",
}
"""Asked with GET; an engine that is not here is only connected to, unless settings give a path."""

LOADING_WORDS = (b"loading", b"starting", b"warming up", b"initializing")
BUSY_WORDS = (b"no slot", b"overload", b"at capacity", b"too many")
OVERLOADED = 529  # what Anthropic's API answers, and others after it


class Target(Struct, frozen=True, kw_only=True):
    """One endpoint to be probed; two that are equal are probed alike."""

    name: str
    url: str
    engine: Engine = Engine.OTHER
    path: str = ""
    """Below the URL's own; empty: a TCP connection."""
    model: str = ""
    """To generate a token with; empty: that is not tried."""
    api: GenerationApi = GenerationApi.COMPLETIONS
    bearer: Secret | None = None
    host: str | None = None
    tls: EndpointTls = EndpointTls()


def target_of(endpoint: Endpoint, settings: HealthSettings) -> Target:
    """How `endpoint` of a document is probed."""
    engine = endpoint.engine
    own = settings.engines.get(engine)
    path = own.path if own is not None and own.path is not None else PATHS.get(engine, "")
    model = settings.generation.model or next(iter(endpoint.models), "")
    api = GenerationApi.CHAT if engine is Engine.OPENAI else GenerationApi.COMPLETIONS
    return Target(
        name=endpoint.name,
        url=endpoint.url,
        engine=engine,
        path=path,
        model=endpoint.model_rewrite.get(model, model) if settings.generation.is_on else "",
        api=settings.generation.api or api,
        bearer=endpoint.auth.bearer,
        host=endpoint.host,
        tls=endpoint.tls,
    )


async def probe(
    session: aiohttp.ClientSession,
    target: Target,
    kind: ProbeKind,
    *,
    context: ssl.SSLContext | None,
    timeout_s: float,
    clock: Clock,
) -> Probed:
    """What `target` does about one question, within `timeout_s`."""
    begun_s = clock()
    try:
        async with asyncio.timeout(timeout_s):
            if kind is ProbeKind.LIVENESS and not target.path:
                answer, detail = await _connect(target)
            else:
                answer, detail = await _ask(session, target, kind, context)
    except TimeoutError:
        answer, detail = Answer.TIMED_OUT, f"no answer in {timeout_s:g} s"
    except (ssl.SSLError, aiohttp.ClientSSLError) as exc:
        answer, detail = Answer.CUT, f"TLS: {exc}"
    except aiohttp.ClientConnectorError as exc:
        answer, detail = Answer.REFUSED, exc.os_error.strerror or str(exc.os_error)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError):
        answer, detail = Answer.CUT, "closed without a whole answer"
    except aiohttp.ClientOSError as exc:
        answer, detail = Answer.CUT, exc.strerror or str(exc)
    except aiohttp.ClientError as exc:
        answer, detail = Answer.UNREADABLE, f"no HTTP answer: {exc}"
    except OSError as exc:
        answer, detail = Answer.REFUSED, exc.strerror or str(exc)
    now_s = clock()
    return Probed(
        at_s=now_s, answer=answer, kind=kind, latency_s=now_s - begun_s, detail=_shown(detail, target)
    )


def read_answer(target: Target, status: int, content_type: str, body: bytes) -> tuple[Answer, str]:
    """What the answer to a health probe says, and its words for people."""
    start = body[: limits.PROBE_BODY_BYTES_MAX].lstrip()
    lower = start.lower()
    text = f"{status}: {start.decode('utf-8', 'replace')}" if start else f"HTTP {status}"
    is_html = "html" in content_type.lower() or lower.startswith((b"<!doctype", b"<html"))
    if status in (401, 403) and (target.bearer is None or not target.bearer.is_known):
        return Answer.OK, "it answers; no key to ask further with"
    if 200 <= status < 300:
        if is_html and target.engine is not Engine.OTHER:
            return Answer.UNREADABLE, "a page of HTML: is a portal or another server there?"
        if target.engine is Engine.OPENAI and not start.startswith((b"{", b"[")):
            return Answer.UNREADABLE, "a list of models that is not JSON"
        return Answer.OK, ""
    if 300 <= status < 400:
        return Answer.UNREADABLE, f"{status}: a redirect, which is not followed"
    if status in (429, OVERLOADED) or (status == 503 and any(word in lower for word in BUSY_WORDS)):
        return Answer.BUSY, text
    if status == 503 and any(word in lower for word in LOADING_WORDS):
        return Answer.LOADING, text
    if status == 400 and target.engine is Engine.TRITON:
        return Answer.LOADING, "400: not ready"  # so says Triton until its models are loaded
    if status in (404, 405):
        return Answer.STATUS, f"{status} for GET {target.path}: is it really {target.engine}?"
    return Answer.STATUS, "a page of HTML" if is_html else text


def read_generation(status: int, body: bytes) -> tuple[Answer, str]:
    """What the answer to a request for one token says, and its words for people."""
    text = f"{status}: {body.decode('utf-8', 'replace')}" if body else f"HTTP {status}"
    if status in (429, OVERLOADED):
        return Answer.BUSY, text
    if 400 <= status < 500 and status != 408:
        return Answer.REJECTED, text
    if not 200 <= status < 300:
        return Answer.STATUS, text
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Answer.UNREADABLE, f"{status}, and no JSON"
    if isinstance(whole, dict) and whole.get("choices"):
        return Answer.OK, ""
    return Answer.STATUS, f"{status} without a token: {body.decode('utf-8', 'replace')}"


def load_tls(tls: EndpointTls) -> ssl.SSLContext:
    """As the router speaks to such an endpoint. Raises: OSError for files that do not load."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def open_session() -> aiohttp.ClientSession:
    """A session as probes want it: a connection each, no cookies, nothing of the environment."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # `probe` keeps the time
        auto_decompress=False,
        headers={"User-Agent": "fairlead-probe", "Accept-Encoding": "identity"},
    )


async def _connect(target: Target) -> tuple[Answer, str]:
    url = parse_endpoint_url(target.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.transport.abort()
    return Answer.OK, ""


async def _ask(
    session: aiohttp.ClientSession, target: Target, kind: ProbeKind, context: ssl.SSLContext | None
) -> tuple[Answer, str]:
    url = parse_endpoint_url(target.url)
    is_generation = kind is ProbeKind.GENERATION
    path = target.path if not is_generation else _GENERATION_PATHS[target.api]
    scheme = "https" if url.is_tls else "http"
    headers = {"Host": target.host or url.authority}
    if target.bearer is not None and target.bearer.is_known:
        headers["Authorization"] = f"Bearer {target.bearer.reveal()}"
    async with session.request(
        "POST" if is_generation else "GET",
        URL(f"{scheme}://{url.authority}{url.path_prefix}{path}", encoded=True),
        json=_one_token(target) if is_generation else None,
        headers=headers,
        ssl=context or True,
        server_hostname=target.tls.server_name if url.is_tls else None,
        allow_redirects=False,
    ) as response:
        body = await _read_start(response.content)
        if is_generation:
            return read_generation(response.status, body)
        return read_answer(target, response.status, response.headers.get("Content-Type", ""), body)


_GENERATION_PATHS = {
    GenerationApi.COMPLETIONS: "/v1/completions",
    GenerationApi.CHAT: "/v1/chat/completions",
}


def _one_token(target: Target) -> dict[str, object]:
    asked: dict[str, object] = {"model": target.model, "max_tokens": 1, "stream": False}
    if target.api is GenerationApi.CHAT:
        return {**asked, "messages": [{"role": "user", "content": "1"}]}
    return {**asked, "prompt": "1"}


async def _read_start(stream: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < limits.PROBE_BODY_BYTES_MAX:
        data = await stream.read(limits.PROBE_BODY_BYTES_MAX - len(body))
        if not data:
            break
        body += data
    return bytes(body)


def _shown(text: str, target: Target) -> str:
    if target.bearer is not None and target.bearer.is_known:
        text = text.replace(target.bearer.reveal(), MASK)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text[: limits.PROBE_DETAIL_CHARS_MAX]
