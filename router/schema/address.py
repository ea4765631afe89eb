"""Addresses as the configuration writes them: where to listen, and where an endpoint is.

Invariant: what is parsed here names one transport address and nothing else; userinfo, queries and fragments
are refused, so that no secret hides in a URL. Host names are not looked up here. Neighbours: validate.py
reports what these refuse, listeners and the upstream pool use the parsed form.
"""

from __future__ import annotations

import functools
import ipaddress
import re

from msgspec import Struct

from router import limits

PORT_MAX = 65535
UNIX_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path on Linux, its closing NUL aside

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?)"
_ADDRESS = re.compile(_HOST + r":(?P<port>[0-9]{1,5})")
_URL = re.compile(
    r"(?P<scheme>https?)://" + _HOST + r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[!-~]*)?", re.IGNORECASE
)
_NUMERIC = re.compile(r"[0-9.]+")


class TcpAddress(Struct, frozen=True):
    """A host (name, IPv4, or IPv6 without brackets) and a port; port 0, to listen on, means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    """A Unix-domain stream socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class EndpointUrl(Struct, frozen=True):
    """An endpoint's URL taken apart."""

    is_tls: bool
    host: str  # IPv6 without its brackets
    port: int
    path_prefix: str  # put before every request's path; "" or "/x/y" without a closing slash

    @property
    def authority(self) -> str:
        """The Host header's value: the port is left out when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def host_port(self) -> str:
        """The endpoint's default name."""
        return str(TcpAddress(self.host, self.port))


def parse_address(text: str) -> Address:
    """The address that `text` ("host:port", "[v6]:port" or "unix:/path") names.

    Raises: ValueError, saying what is wrong.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise ValueError("the path of a Unix socket must be absolute")
        if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_BYTES_MAX:
            raise ValueError(f"the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes")
        return UnixAddress(path)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        if text.startswith(":") and text[1:].isdigit():
            raise ValueError(f"no host; 0.0.0.0{text} listens on all of IPv4, [::]{text} on all of IPv6")
        raise ValueError("not host:port")
    return TcpAddress(_host(match["host"]), _port(match["port"]))


@functools.lru_cache(maxsize=limits.ENDPOINTS_MAX)  # each is read by several, and again at every reload
def parse_endpoint_url(text: str) -> EndpointUrl:
    """The endpoint URL that `text` names.

    Raises: ValueError, saying what is wrong.
    """
    match = _URL.fullmatch(text)
    if match is None:
        if "://" not in text:
            raise ValueError("no scheme")
        if "@" in text:
            raise ValueError("user names and passwords do not belong in a URL; use auth")
        raise ValueError("not an http or https URL")
    is_tls = match["scheme"].lower() == "https"
    port = _port(match["port"]) if match["port"] else (443 if is_tls else 80)
    if port == 0:
        raise ValueError("port 0 cannot be connected to")
    path = (match["path"] or "").rstrip("/")
    if "?" in path or "#" in path:
        raise ValueError("a query or fragment means nothing here")
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        raise ValueError("the path has empty or dot segments")
    return EndpointUrl(is_tls, _host(match["host"]), port, path)


def is_loopback(address: Address) -> bool:
    """Whether only this host can reach it: a Unix socket, a loopback address, or the name localhost."""
    if isinstance(address, UnixAddress):
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host.lower().rstrip(".") == "localhost"


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(f"{text} is not an IPv6 address") from None
    if _NUMERIC.fullmatch(text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"{text} is not an IPv4 address") from None
    return text.lower()


def _port(text: str) -> int:
    port = int(text)
    if port > PORT_MAX:
        raise ValueError(f"port {port} is over {PORT_MAX}")
    return port
