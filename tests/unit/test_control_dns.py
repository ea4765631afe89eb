"""What DNS says becomes endpoints: the template with an address in it, and services with their weights."""

import pytest

from control.discovery.dns import Service, from_addresses, from_services
from router.schema.config import Endpoint, EndpointTls


def test_an_endpoint_is_spoken_to_by_the_name_it_was_found_under() -> None:
    template = Endpoint(url="https://engines.test/v2", models=("m",), region="eu")
    (found,) = from_addresses(template, ["10.0.0.1", "10.0.0.1"])
    assert (found.url, found.name) == ("https://10.0.0.1:443/v2", "10.0.0.1:443")
    assert (found.host, found.tls.server_name) == ("engines.test", "engines.test")
    assert (found.models, found.region) == (("m",), "eu")


def test_names_that_the_template_gives_stay() -> None:
    template = Endpoint(url="https://engines.test", host="h", tls=EndpointTls(server_name="s"))
    (found,) = from_addresses(template, ["10.0.0.1"])
    assert (found.host, found.tls.server_name) == ("h", "s")


def test_without_tls_there_are_no_settings_of_it() -> None:
    (found,) = from_addresses(Endpoint(url="http://engines.test:8000"), ["10.0.0.1"])
    assert (found.tls, found.host) == (EndpointTls(), "engines.test:8000")


def test_the_order_of_an_answer_leaves_no_trace() -> None:
    template = Endpoint(url="http://e:1")
    forth, back = ["10.0.0.10", "10.0.0.9", "10.0.0.1"], ["10.0.0.1", "10.0.0.9", "10.0.0.10"]
    assert from_addresses(template, forth) == from_addresses(template, back)
    services = [Service(0, 1, 1, "b."), Service(0, 2, 1, "a."), Service(1, 1, 1, "c.")]
    assert from_services(template, services) == from_services(template, services[::-1])


def test_weights_are_shares_within_a_priority_and_later_priorities_have_next_to_none() -> None:
    services = [
        Service(20, 0, 1, "spare."),
        Service(10, 65_535, 1, "large."),
        Service(10, 6_553, 2, "small."),
        Service(10, 0, 1, "seldom."),
    ]
    found = from_services(Endpoint(url="http://e:1", weight=2.0), services)
    assert {endpoint.name: endpoint.weight for endpoint in found} == {
        "large:1": 2.0,
        "seldom:1": pytest.approx(2 / 65_535, rel=1e-3),
        "small:2": pytest.approx(0.2, rel=1e-3),
        "spare:1": 0.02,
    }


def test_however_many_priorities_there_are_every_weight_is_one() -> None:
    found = from_services(
        Endpoint(url="http://e:1"), [Service(rank, 1, 1, f"h{rank}.") for rank in range(50)]
    )
    assert all(0 < endpoint.weight <= 1 for endpoint in found)


def test_a_dot_is_no_service_and_a_target_that_no_url_can_have_is_refused() -> None:
    assert from_services(Endpoint(url="http://e:1"), [Service(0, 0, 0, ".")]) == ()
    with pytest.raises(ValueError, match="not an http or https URL"):
        from_services(Endpoint(url="http://e:1"), [Service(0, 0, 1, r"a\032b.")])
    with pytest.raises(ValueError, match="port 0"):
        from_services(Endpoint(url="http://e:1"), [Service(0, 0, 0, "a.")])
