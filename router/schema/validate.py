"""What types cannot say of a configuration: names that refer to each other, contradictions.

`find_faults(config)` returns every fault with the path of the field it is about; router/config.py adds file
and line. A value that is merely a default is not held against one that was written: a total timeout below
the default first-byte timeout is a choice, not a contradiction.

Invariant: nothing here changes or completes a configuration, and nothing outside here refuses a well-typed
one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from msgspec import Struct

from router import limits
from router.schema.address import TcpAddress, is_loopback, parse_address, parse_endpoint_url
from router.schema.config import (
    Config,
    Endpoint,
    EndpointList,
    EndpointTls,
    Pool,
    Route,
    RouteMatch,
)
from router.schema.eligibility import Condition, Requirement, conditions_of, distinct_conditions
from router.schema.faults import Doubts, Fault, Path, dotted
from router.schema.secret import Secret
from router.schema.timeouts import RouteTimeouts, Timeouts, effective_timeouts
from router.schema.words import nearest


def find_faults(config: Config, doubts: Doubts = Doubts()) -> list[Fault]:  # noqa: B008 - never changes
    """Every fault of a configuration without its ill-typed values, in the order of its fields.

    None that could go away when those are set right. What is in the files that it names is in files.py.
    """
    return [
        *_listener_faults(config, doubts),
        *_control_faults(config, doubts),
        *_limit_faults(config, doubts),
        *_timeout_faults(("timeouts",), config.timeouts, Timeouts(), doubts),
        *_pool_faults(config, doubts),
        *_routing_faults(config, doubts),
        *_alias_faults(config, doubts),
        *_route_faults(config, doubts),
        *_requirement_faults(config, doubts),
        *_network_faults(config, doubts),
    ]


def find_list_faults(found: EndpointList, doubts: Doubts) -> Iterator[Fault]:
    """Every fault of a list of endpoints that routers on other machines will serve by."""
    yield from _endpoints_faults(("endpoints",), found.endpoints, {}, doubts)
    for index, endpoint in doubts.numbered(("endpoints",), found.endpoints):
        yield from find_clear_secrets(("endpoints", index), endpoint)


def find_clear_secrets(path: Path, endpoint: Endpoint) -> Iterator[Fault]:
    """Secrets of an endpoint at `path` that stand there as text: what is passed on holds none."""
    bearer = endpoint.auth.bearer
    if bearer is not None and bearer.source is None:
        yield Fault((*path, "auth", "bearer"), "a secret that is written out", "file:/path or ${ENV}")


# ---- where it listens


def _listener_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    listeners = list(doubts.numbered(("listeners",), config.listeners))
    places: list[tuple[Path, str]] = [
        (("listeners", index, "address"), listener.address) for index, listener in listeners
    ]
    if not doubts.hides("admin", "address"):
        places.append((("admin", "address"), config.admin.address))
    seen: dict[str, Path] = {}
    for path, text in places:
        try:
            address = parse_address(text)
        except ValueError as exc:
            yield Fault(path, f"{text!r}: {exc}", "host:port, [v6]:port or unix:/path")
            continue
        key = str(address)
        if key in seen and not (isinstance(address, TcpAddress) and address.port == 0):
            yield Fault(path, f"{text!r} is taken by {dotted(seen[key])}", "an address of its own")
        seen[key] = path
        is_open = path[0] == "admin" and config.admin.token is None and not is_loopback(address)
        if is_open and not doubts.hides("admin", "token"):
            yield Fault(
                ("admin", "token"),
                f"the admin address {text!r} can be reached from other hosts, and no token guards it",
                "a token (file:/path or ${ENV}), or a loopback address",
            )
    if config.admin.token is not None:
        yield from _secret_faults(("admin", "token"), config.admin.token)
    if config.runtime_dir is not None and not config.runtime_dir.startswith("/"):
        yield Fault(("runtime_dir",), f"{config.runtime_dir!r} is relative", "an absolute path")


def _control_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    control = config.control
    if control is None:
        if not config.pools and not doubts.about("control") and not doubts.hides("pools"):
            yield Fault((), "there are no pools", "at least one under pools, or control, which sends some")
        return
    path: Path = ("control",)
    try:
        address = parse_address(control.address)
    except ValueError as exc:
        yield Fault((*path, "address"), f"{control.address!r}: {exc}", "unix:/path or host:port")
    else:
        if control.tls is None and not is_loopback(address) and not doubts.hides(*path, "tls"):
            yield Fault(
                (*path, "address"), f"{control.address!r} is not on this machine", "tls, or unix:/path"
            )
    if control.tls is not None and (control.tls.cert_file is None) != (control.tls.key_file is None):
        given = "cert_file" if control.tls.key_file is None else "key_file"
        yield Fault(
            (*path, "tls", given), "given without the other", "both cert_file and key_file, or neither"
        )
    if control.token is not None:
        yield from _secret_faults((*path, "token"), control.token)
    if control.state_dir is not None and not control.state_dir.startswith("/"):
        yield Fault((*path, "state_dir"), f"{control.state_dir!r} is relative", "an absolute path")


def _secret_faults(path: Path, secret: Secret) -> Iterator[Fault]:
    if not secret.is_known:
        return  # where it is used it will be looked at
    text = secret.reveal()
    if not text:
        yield Fault(path, "the secret is empty", "a value, file:/path or ${ENV}")
    elif not all("!" <= char <= "~" for char in text):
        yield Fault(
            path, "the secret has spaces, controls or non-ASCII characters", "visible ASCII characters"
        )


# ---- limits and timeouts


def _limit_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    default = type(config.limits)()
    for names in (
        ("target_bytes_max", "head_bytes_max"),
        ("retry_buffer_bytes_max", "buffered_body_bytes_max"),
        ("idle_upstream_connections_per_endpoint_max", "upstream_connections_per_endpoint_max"),
    ):
        yield from _order_faults(("limits",), config.limits, default, names, doubts)


def _timeout_faults(path: Path, timeouts: Timeouts, default: Timeouts, doubts: Doubts) -> Iterator[Fault]:
    if timeouts.total_ms:
        for name in ("connect_ms", "first_byte_ms", "idle_ms"):
            yield from _order_faults(path, timeouts, default, (name, "total_ms"), doubts)


def _order_faults(
    path: Path, section: Struct, default: Struct, names: tuple[str, str], doubts: Doubts
) -> Iterator[Fault]:
    """A written value of the first name that is more than that of the second."""
    small, large = names
    if doubts.hides(*path, small) or doubts.hides(*path, large):
        return
    value, bound = getattr(section, small), getattr(section, large)
    if value > bound and value != getattr(default, small):
        yield Fault((*path, small), f"{value} is more than {large}, which is {bound}", f"at most {bound}")


# ---- pools


def _pool_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    pools = list(doubts.numbered(("pools",), config.pools))
    yield from _name_faults(("pools",), [(index, pool.name) for index, pool in pools], "pool")
    defaults = [index for index, pool in pools if pool.default]
    for index in defaults[1:]:
        yield Fault(
            ("pools", index, "default"),
            f"{dotted(('pools', defaults[0]))} is the default pool already",
            "one default pool at most",
        )
    owners: dict[str, Path] = {}
    endpoint_count = 0
    models: set[str] = set()
    for pool_index, pool in pools:
        path: Path = ("pools", pool_index, "endpoints")
        for _, endpoint in doubts.numbered(path, pool.endpoints):
            endpoint_count += 1
            models.update(endpoint.models, endpoint.model_rewrite)
        yield from _endpoints_faults(path, pool.endpoints, owners, doubts)
    if endpoint_count > limits.ENDPOINTS_MAX:
        yield Fault(
            ("pools",), f"{endpoint_count} endpoints", f"at most {limits.ENDPOINTS_MAX} in all pools together"
        )
    if len(models) > limits.MODELS_MAX:
        yield Fault(
            ("pools",), f"{len(models)} model names", f"at most {limits.MODELS_MAX} in all pools together"
        )


def _endpoints_faults(
    place: Path, endpoints: tuple[Endpoint, ...], owners: dict[str, Path], doubts: Doubts
) -> Iterator[Fault]:
    """Of endpoints that stand in for each other; `owners` has the names that are taken, then theirs too."""
    urls: dict[object, Path] = {}
    for index, endpoint in doubts.numbered(place, endpoints):
        path = (*place, index)
        is_named = not doubts.hides(*path, "name")
        if is_named and endpoint.name in owners:
            yield Fault(
                (*path, "name"),
                f"the name {endpoint.name!r} is that of {dotted(owners[endpoint.name])} too",
                "a name that no other endpoint has (the default is host:port)",
            )
        if is_named:
            owners.setdefault(endpoint.name, path)
        yield from _url_faults((*path, "url"), endpoint.url, urls, path)
        yield from _endpoint_faults(path, endpoint, doubts)


def _name_faults(path: Path, names: list[tuple[int, str]], what: str) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, name in names:
        if name in seen:
            yield Fault(
                (*path, index, "name"),
                f"{dotted((*path, seen[name]))} is named {name!r} too",
                f"a name that no other {what} has",
            )
        seen.setdefault(name, index)


def _url_faults(path: Path, text: str, urls: dict[object, Path], endpoint: Path) -> Iterator[Fault]:
    expected = "http://host:port or https://host:port, with a path prefix if need be"
    try:
        url = parse_endpoint_url(text)
    except ValueError as exc:
        yield Fault(path, f"{text!r}: {exc}", expected)
        return
    if url.path_prefix.endswith("/v1"):
        right = text.rstrip("/").removesuffix("/v1")
        yield Fault(
            path,
            f"{text!r} would send /v1/chat/completions to {url.path_prefix}/v1/chat/completions",
            f"{right}: clients' paths begin with /v1 already",
        )
    if url in urls:
        yield Fault(
            path,
            f"{text!r} is the address of {dotted(urls[url])} too",
            "each address once in a pool (see weight)",
        )
    urls.setdefault(url, endpoint)


def _endpoint_faults(path: Path, endpoint: Endpoint, doubts: Doubts) -> Iterator[Fault]:
    known = set(endpoint.models)
    if len(known) < len(endpoint.models):
        yield Fault((*path, "models"), "a model is named twice", "each name once")
    if known and not doubts.about(*path, "models"):
        for name in endpoint.model_rewrite:
            if name not in known:
                yield Fault(
                    (*path, "model_rewrite", name),
                    f"{name!r} is not among this endpoint's models, so that nobody can ask for it",
                    _among(name, known),
                )
    for name in endpoint.model_load_ms:
        if name not in known and not doubts.about(*path, "models"):
            yield Fault(
                (*path, "model_load_ms", name),
                f"{name!r} is not among this endpoint's models, so that nobody can ask for it",
                _among(name, known) if known else "a model that is listed under models",
            )
    if (
        endpoint.models_resident_max is not None
        and not endpoint.model_load_ms
        and not doubts.about(*path, "model_load_ms")
    ):
        yield Fault(
            (*path, "models_resident_max"),
            "no model is loaded on demand here",
            "model_load_ms with the models that are",
        )
    price = endpoint.price
    if price.gpu_hour is not None and (price.input_per_million_tokens, price.output_per_million_tokens) != (
        None,
        None,
    ):
        yield Fault((*path, "price", "gpu_hour"), "priced by the hour and by tokens", "one of the two")
    yield from _endpoint_tls_faults((*path, "tls"), endpoint, doubts)
    auth = endpoint.auth
    if auth.bearer is not None:
        yield from _secret_faults((*path, "auth", "bearer"), auth.bearer)
        if auth.pass_client_key:
            yield Fault(
                (*path, "auth", "pass_client_key"),
                "the client's key and a key of our own cannot both be sent",
                "either bearer or pass_client_key",
            )
    if endpoint.host is not None:
        try:
            parse_address(endpoint.host if _has_port(endpoint.host) else f"{endpoint.host}:80")
        except ValueError as exc:
            yield Fault((*path, "host"), f"{endpoint.host!r}: {exc}", "host or host:port")


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _endpoint_tls_faults(path: Path, endpoint: Endpoint, doubts: Doubts) -> Iterator[Fault]:
    tls = endpoint.tls
    if tls == EndpointTls():
        return
    if endpoint.url.lower().startswith("http:"):
        yield Fault(
            path,
            f"TLS settings for {endpoint.url!r}, which does not use TLS",
            "an https URL, or no tls section",
        )
    if tls.ca_file is not None and not tls.verify:
        yield Fault(
            (*path, "ca_file"),
            "given, but verify is false and nothing is checked",
            "verify: true, or no ca_file",
        )
    if (tls.cert_file is None) != (tls.key_file is None):
        given, absent = ("cert_file", "key_file") if tls.key_file is None else ("key_file", "cert_file")
        if not doubts.hides(*path, absent):
            yield Fault((*path, given), f"given without {absent}", "both or neither")


# ---- who gets what


def _routing_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    """Pools that no request can reach, because another takes the same models first."""
    if doubts.about("routes") or doubts.about("pools"):
        return
    named = {route.pool for route in config.routes}
    takers: dict[str, int] = {}
    for index, pool in enumerate(config.pools):
        for endpoint_index, endpoint in enumerate(pool.endpoints):
            for model_index, model in enumerate(endpoint.models):
                first = takers.setdefault(model, index)
                if first != index and pool.name not in named:
                    yield Fault(
                        ("pools", index, "endpoints", endpoint_index, "models", model_index),
                        f"requests for {model!r} go to pool {config.pools[first].name!r}, which comes first",
                        "each model in one pool, or a route that names this pool",
                    )
    open_pools = [index for index, pool in enumerate(config.pools) if _takes_any_model(pool)]
    if len(open_pools) > 1:
        winner = next((index for index in open_pools if config.pools[index].default), open_pools[0])
        for index in open_pools:
            pool = config.pools[index]
            if index != winner and pool.name not in named:
                yield Fault(
                    ("pools", index),
                    f"pools {config.pools[winner].name!r} and {pool.name!r} both take any model",
                    "the models of its endpoints, or a route that names this pool",
                )


def _takes_any_model(pool: Pool) -> bool:
    return any(not endpoint.models for endpoint in pool.endpoints)


def _alias_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    endpoints = [endpoint for pool in config.pools for endpoint in pool.endpoints]
    served = {model for endpoint in endpoints for model in endpoint.models}
    takes_any = any(not endpoint.models for endpoint in endpoints)
    for alias, models in config.aliases.items():
        path: Path = ("aliases", alias)
        if alias in served:
            yield Fault(path, f"{alias!r} is a model that endpoints serve", "a name that no model has")
        seen: set[str] = set()
        for index, entry in doubts.numbered(path, models):
            where: Path = (*path, index) if isinstance(entry, str) else (*path, index, "model")
            name = entry if isinstance(entry, str) else entry.model
            if name in seen:
                yield Fault(where, f"{name!r} is named twice", "each model once")
            elif name in config.aliases:
                yield Fault(where, f"{name!r} is an alias itself", "a model that endpoints serve")
            elif name not in served and not takes_any and not doubts.about("pools"):
                yield Fault(where, f"no endpoint serves {name!r}", _among(name, served))
            seen.add(name)


def _route_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    routes = list(doubts.numbered(("routes",), config.routes))
    yield from _name_faults(("routes",), [(index, route.name) for index, route in routes], "route")
    pools = {pool.name for pool in config.pools}
    catch_all: str | None = None
    matches: list[tuple[RouteMatch, str]] = []
    for index, route in routes:
        path: Path = ("routes", index)
        if route.pool is not None and route.pool not in pools and not doubts.hides("pools"):
            yield Fault((*path, "pool"), f"there is no pool {route.pool!r}", _among(route.pool, pools))
        yield from _match_faults((*path, "match"), route.match)
        yield from _route_timeout_faults((*path, "timeouts"), config.timeouts, route, doubts)
        if doubts.about(*path, "match"):
            continue
        before = catch_all or next((name for match, name in matches if match == route.match), None)
        if before is not None:
            yield Fault(
                path,
                f"route {before!r} comes first and takes every request that would match",
                "the special route first",
            )
        elif route.match == RouteMatch():
            catch_all = route.name
        matches.append((route.match, route.name))


def _requirement_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    """Requirements that nobody meets where the route's requests may go."""
    if doubts.about("pools"):
        return
    wanted: list[Requirement] = []
    for index, route in doubts.numbered(("routes",), config.routes):
        path: Path = ("routes", index)
        if doubts.about(*path):
            continue
        endpoints = [
            endpoint
            for pool in config.pools
            if route.pool in (None, pool.name)
            for endpoint in pool.endpoints
        ]
        own = conditions_of(route.require)
        yield from _unmet_faults((*path, "require"), own, endpoints)
        for name, more in route.may_require.items():
            where: Path = (*path, "may_require", name)
            if more == Requirement():
                yield Fault(where, "nothing is required", "regions, labels or capabilities")
            yield from _unmet_faults(where, [*own, *conditions_of(more)], endpoints)
        wanted += [route.require, *route.may_require.values()]
    count = len(distinct_conditions(wanted))
    if count > limits.CONDITIONS_MAX:
        yield Fault(
            ("routes",), f"{count} different conditions", f"at most {limits.CONDITIONS_MAX} in all routes"
        )


def _unmet_faults(path: Path, conditions: list[Condition], endpoints: list[Endpoint]) -> Iterator[Fault]:
    unmet = [one for one in conditions if not any(one.is_met_by(endpoint) for endpoint in endpoints)]
    for condition in unmet:
        yield Fault(
            path,
            f"no endpoint of the route's pools meets {condition}",
            _among(condition.values[0], _values(condition, endpoints)),
        )
    if endpoints and not unmet and not any(_meets(endpoint, conditions) for endpoint in endpoints):
        together = ", ".join(map(str, conditions))
        yield Fault(path, f"no endpoint of the route's pools meets all of {together}", "one that does")


def _meets(endpoint: Endpoint, conditions: list[Condition]) -> bool:
    return all(condition.is_met_by(endpoint) for condition in conditions)


def _values(condition: Condition, endpoints: list[Endpoint]) -> set[str]:
    """What endpoints have where the condition looks."""
    if condition.kind == "region":
        return {endpoint.region for endpoint in endpoints if endpoint.region}
    if condition.kind == "label":
        return {endpoint.labels[condition.key] for endpoint in endpoints if condition.key in endpoint.labels}
    return {word for endpoint in endpoints for word in endpoint.capabilities}


def _match_faults(path: Path, match: RouteMatch) -> Iterator[Fault]:
    if match.host is not None:
        name = match.host.removeprefix("*.")
        try:
            parse_address(f"{name}:80")
        except ValueError:
            yield Fault(
                (*path, "host"), f"{match.host!r} is not a host name", "a host without port, or *.domain"
            )
    patterns: list[tuple[Path, str]] = [
        ((*path, "headers", name), value) for name, value in match.headers.items()
    ]
    if match.path is not None:
        patterns.insert(0, ((*path, "path"), match.path))
        if match.path[0] not in "/*":
            yield Fault((*path, "path"), f"{match.path!r} matches no path", "a glob that begins with / or *")
        if "?" in match.path:
            yield Fault(
                (*path, "path"),
                f"{match.path!r} has a query",
                "a glob over the path alone; * is the only wildcard",
            )
    if match.model is not None:
        patterns.append(((*path, "model"), match.model))
    for where, pattern in patterns:
        yield from _glob_faults(where, pattern)
    lowered = [name.lower() for name in match.headers]
    for name in match.headers:
        if lowered.count(name.lower()) > 1:
            yield Fault(
                (*path, "headers", name),
                "the header is named twice (case does not matter)",
                "each header once",
            )


def _glob_faults(path: Path, pattern: str) -> Iterator[Fault]:
    if any(char in "[]{}" for char in pattern):
        yield Fault(
            path, f"{pattern!r} has brackets, which mean nothing here", "a glob whose only wildcard is *"
        )
    if any(char < " " or char == "\x7f" for char in pattern):
        yield Fault(path, f"{pattern!r} has control characters", "printable text")
    if "**" in pattern:
        yield Fault(path, f"{pattern!r} has ** in it", "a single *, which takes slashes too")


def _route_timeout_faults(path: Path, timeouts: Timeouts, route: Route, doubts: Doubts) -> Iterator[Fault]:
    if route.timeouts == RouteTimeouts() or doubts.about(*path) or doubts.about("timeouts"):
        return
    for fault in _timeout_faults(path, effective_timeouts(timeouts, route.timeouts), Timeouts(), doubts):
        name = str(fault.path[-1])
        if getattr(route.timeouts, name) is not None:
            yield fault
        else:  # the route shortened the total; the other value is the global one
            value = getattr(timeouts, name)
            yield Fault(
                (*path, "total_ms"),
                f"{route.timeouts.total_ms} is less than {name}, which is {value}",
                f"at least {value}, or a shorter {name} here",
            )


def _network_faults(config: Config, doubts: Doubts) -> Iterator[Fault]:
    for index, text in doubts.numbered(("trusted_proxies",), config.trusted_proxies):
        try:
            ipaddress.ip_network(text)
        except ValueError as exc:
            try:
                expected = str(ipaddress.ip_network(text, strict=False))
            except ValueError:
                expected = "a network such as 10.0.0.0/8 or fd00::/8"
            yield Fault(("trusted_proxies", index), f"{text!r}: {exc}", expected)


def _among(word: str, known: set[str]) -> str:
    guess = nearest(word, known)
    if not known:
        return "something that is there: nothing is"
    names = ", ".join(sorted(known)[:10]) + (", ..." if len(known) > 10 else "")
    return f"{guess!r} perhaps; known: {names}" if guess else f"one of: {names}"
