"""Peers by address: their text is the usual one, and networks are matched as `ipaddress` matches them."""

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.native.peer import describe


def sockaddr(address: str, port: int = 443) -> bytes:
    """As the kernel fills it in: sockaddr_in6's 28 bytes have room for either."""
    if ":" in address:
        fields = struct.pack("=HHI", socket.AF_INET6, socket.htons(port), 0)
        return fields + socket.inet_pton(socket.AF_INET6, address) + bytes(4)
    return struct.pack("=HH", socket.AF_INET, socket.htons(port)) + socket.inet_aton(address) + bytes(20)


UNIX = struct.pack("=H", socket.AF_UNIX) + bytes(26)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("::1", "::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_an_address_is_shown_as_people_write_it(address: str, shown: str) -> None:
    assert describe(sockaddr(address), [])[0] == shown


def test_a_unix_peer_has_no_address_and_no_trust() -> None:
    assert describe(UNIX, ["0.0.0.0/0", "::/0"]) == ("unix", False)


@pytest.mark.parametrize(
    ("address", "network", "trusted"),
    [
        ("10.0.0.1", "10.0.0.0/8", True),
        ("11.0.0.1", "10.0.0.0/8", False),
        ("10.0.0.1", "10.0.0.1/32", True),
        ("10.0.0.2", "10.0.0.1/32", False),
        ("192.168.3.9", "192.168.2.0/23", True),
        ("192.168.4.9", "192.168.2.0/23", False),
        ("1.2.3.4", "0.0.0.0/0", True),
        ("::1", "0.0.0.0/0", False),
        ("::ffff:10.0.0.1", "10.0.0.0/8", True),
        ("fd00::1", "fd00::/8", True),
        ("fe00::1", "fd00::/8", False),
        ("fd00::1", "::/0", True),
        ("10.0.0.1", "10.0.0.77/8", True),
    ],
)
def test_a_network_trusts_the_addresses_in_it(address: str, network: str, trusted: bool) -> None:
    assert describe(sockaddr(address), [network])[1] is trusted


def test_without_networks_nobody_is_trusted() -> None:
    assert not describe(sockaddr("127.0.0.1"), [])[1]


@given(
    st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=5)
)
def test_ipv4_networks_are_matched_as_the_standard_library_does(
    number: int, networks: list[tuple[int, int]]
) -> None:
    address = ipaddress.IPv4Address(number)
    parsed = [ipaddress.IPv4Network((base, bits), strict=False) for base, bits in networks]
    trusted = describe(sockaddr(str(address)), [str(network) for network in parsed])[1]
    assert trusted == any(address in network for network in parsed)


@given(st.integers(0, 2**128 - 1), st.integers(0, 128), st.integers(0, 127), st.booleans())
def test_ipv6_networks_are_matched_to_the_bit(number: int, bits: int, flipped: int, flips: bool) -> None:
    network = ipaddress.IPv6Network((number, bits), strict=False)
    address = ipaddress.IPv6Address(number ^ (flips << flipped))
    if address.ipv4_mapped is None:
        assert describe(sockaddr(str(address)), [str(network)])[1] == (address in network)


@pytest.mark.parametrize("network", ["10.0.0.0/33", "localhost", "", "10.0.0.0/8/8", "::/129"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|not permitted|Only one"):
        describe(sockaddr("10.0.0.1"), [network])
