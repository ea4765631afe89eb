"""What a configuration's files hold: certificates and keys that can be used, a log that can be written.

Apart from validate.py, because it is true of one machine: whoever looks at a configuration for others, as
control does, cannot know their files. Invariant: a fault here is about what is on disk, never about what was
written in the configuration. Neighbours: validate.py (the rest), router/config.py (asks both).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

from router.schema.config import STDOUT_NAMES, Config, EndpointTls
from router.schema.faults import Doubts, Fault, Path


def find_file_faults(config: Config, doubts: Doubts) -> list[Fault]:
    """Every fault of the files that a configuration names, in the order of its fields."""
    faults: list[Fault] = []
    for index, listener in doubts.numbered(("listeners",), config.listeners):
        if listener.tls is not None:
            path: Path = ("listeners", index, "tls")
            faults += _pair_faults(path, "cert", listener.tls.cert, "key", listener.tls.key)
    for pool_index, pool in doubts.numbered(("pools",), config.pools):
        place: Path = ("pools", pool_index, "endpoints")
        for index, endpoint in doubts.numbered(place, pool.endpoints):
            faults += _endpoint_faults((*place, index, "tls"), endpoint.tls)
    return [*faults, *_access_log_faults(config)]


def _endpoint_faults(path: Path, tls: EndpointTls) -> Iterator[Fault]:
    if tls.ca_file is not None:
        yield from _ca_faults((*path, "ca_file"), tls.ca_file)
    if tls.cert_file is not None and tls.key_file is not None:
        yield from _pair_faults(path, "cert_file", tls.cert_file, "key_file", tls.key_file)


def _pair_faults(path: Path, cert_key: str, cert: str, key_key: str, key: str) -> list[Fault]:
    faults = [*_file_faults((*path, cert_key), cert), *_file_faults((*path, key_key), key)]
    return faults or list(_match_faults((*path, cert_key), cert, key))


def _file_faults(path: Path, name: str) -> Iterator[Fault]:
    try:
        with open(name, "rb") as file:
            file.read(1)
    except OSError as exc:
        yield Fault(path, f"{name!r} cannot be read: {exc.strerror}", "a PEM file that this user can read")


def _match_faults(path: Path, cert: str, key: str) -> Iterator[Fault]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or str(exc)
        yield Fault(
            path,
            f"{cert!r} and {key!r} cannot be used: {reason.lower().replace('_', ' ')}",
            "a PEM certificate and its own key, without a passphrase",
        )


def _no_password() -> str:
    raise ValueError("the key asks for a passphrase")


def _ca_faults(path: Path, name: str) -> Iterator[Fault]:
    unreadable = list(_file_faults(path, name))
    yield from unreadable
    if unreadable:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=name)
    except ssl.SSLError:
        yield Fault(path, f"{name!r} holds no certificate", "a PEM file of trusted authorities")


def _access_log_faults(config: Config) -> Iterator[Fault]:
    name = config.access_log.path
    if name is None or name in STDOUT_NAMES:
        return
    folder = os.path.dirname(name) or "."
    if not os.path.isdir(folder):
        reason = f"there is no folder {folder!r}"
    elif os.path.isdir(name):
        reason = "that is a folder"
    elif not os.access(name if os.path.exists(name) else folder, os.W_OK):
        reason = "Permission denied"
    else:
        return
    expected = "stdout, or a file that this user can write, in a folder that is there"
    yield Fault(("access_log", "path"), f"{name!r} cannot be written: {reason}", expected)
