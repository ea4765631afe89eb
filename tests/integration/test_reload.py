"""A new configuration is in force on every worker or on none, and who asked is told why not."""

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import trustme

from router.takeover import control_path_of
from tests.integration.processes import BOUND_S, REAL, Router, endpoint, router, wait_until

NEW = [{"name": "main", "endpoints": [endpoint("two"), endpoint("three")]}]


def test_reload_changes_every_worker_without_restarting_any(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        fairlead.start()
        pids = fairlead.worker_pids()
        fairlead.write_config(pools=NEW)
        assert fairlead.request("POST", "/reload", fairlead.admin) == (
            200,
            {"status": "reloaded", "version": 2},
        )
        assert _endpoints_of_all_workers(fairlead) == [("two", "three")]
        assert fairlead.worker_pids() == pids


def test_sighup_reloads(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        process = fairlead.start()
        fairlead.write_config(pools=NEW)
        process.send_signal(signal.SIGHUP)
        fairlead.wait_notified("RELOADING=1")
        fairlead.wait_notified("READY=1")
        assert _endpoints_of_all_workers(fairlead) == [("two", "three")]


def test_the_reload_command_reports_success_and_refusal(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start()
        done = _run_reload_command(fairlead)
        assert (done.returncode, done.stdout) == (0, "reloaded: version 2 is in force\n")
        fairlead.write_config(pools=[])
        done = _run_reload_command(fairlead)
        assert done.returncode == 1
        assert "reload refused" in done.stderr
        assert "pools" in done.stderr


def test_a_bad_file_is_refused_and_the_old_configuration_stays(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        process = fairlead.start()
        fairlead.config_path.write_text("pools: [")
        status, body = fairlead.request("POST", "/reload", fairlead.admin)
        assert (status, body["error"]["code"]) == (409, "reload_refused")
        process.send_signal(signal.SIGHUP)
        fairlead.wait_notified("RELOADING=1")
        wait_until(lambda: fairlead.stderr().count("reload refused") == 2, "the signal's refusal is logged")
        assert _endpoints_of_all_workers(fairlead) == [("one",)]
        assert fairlead.get("/debug/config", fairlead.admin)[1]["version"] == 1


def test_one_worker_that_refuses_keeps_the_old_configuration_everywhere(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        fairlead.start()
        fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint("refuse-1")]}])
        status, body = fairlead.request("POST", "/reload", fairlead.admin)
        assert status == 409
        assert "column 1 refuses" in body["error"]["message"]
        assert _endpoints_of_all_workers(fairlead) == [("one",)]
        fairlead.write_config(pools=NEW)
        assert fairlead.request("POST", "/reload", fairlead.admin)[0] == 200
        assert _endpoints_of_all_workers(fairlead) == [("two", "three")]


def test_a_worker_that_dies_while_preparing_keeps_the_old_configuration_everywhere(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        fairlead.start()
        fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint("die-0")]}])
        status, body = fairlead.request("POST", "/reload", fairlead.admin)
        assert status == 409
        assert "worker 0 died" in body["error"]["message"]
        wait_until(lambda: len(fairlead.worker_pids()) == 2, "the dead worker is replaced")
        assert _endpoints_of_all_workers(fairlead) == [("one",)]


def test_a_worker_restarted_after_a_reload_has_the_new_configuration(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start()
        fairlead.write_config(pools=NEW)
        assert fairlead.request("POST", "/reload", fairlead.admin)[0] == 200
        (old,) = fairlead.worker_pids()
        os.kill(old, signal.SIGKILL)
        answer = fairlead.get("/who")[1]
        assert answer["pid"] != old
        assert answer["endpoints"] == ["two", "three"]


def test_what_needs_another_process_is_refused_with_advice(tmp_path: Path) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"workers": 3}, "workers"),
        ({"listeners": [{"address": "127.0.0.1:0"}, {"address": "[::1]:0"}]}, "listeners"),
        ({"admin": {"address": "[::1]:0"}}, "admin.address"),
        ({"limits": {"head_bytes_max": 2048}}, "limits"),
        ({"prefixes": {"table_bytes": 1 << 21}}, "prefixes.table_bytes"),
    ]
    with router(tmp_path) as fairlead:
        fairlead.start()
        old = dict(fairlead.config)
        for change, named in changes:
            fairlead.config = old
            fairlead.write_config(**change)
            status, body = fairlead.request("POST", "/reload", fairlead.admin)
            assert status == 409
            assert body["error"]["message"].startswith(f"{named}: ")
            assert "fairlead upgrade" in body["error"]["message"]


def test_endpoints_keep_their_slots_over_reloads(tmp_path: Path) -> None:
    with router(tmp_path, pools=NEW) as fairlead:
        fairlead.start()
        before = {row["name"]: row["slot"] for row in fairlead.get("/debug/endpoints", fairlead.admin)[1]}
        fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint("new"), endpoint("three")]}])
        assert fairlead.request("POST", "/reload", fairlead.admin)[0] == 200
        after = {row["name"]: row["slot"] for row in fairlead.get("/debug/endpoints", fairlead.admin)[1]}
        assert after["three"] == before["three"]
        assert after["new"] not in before.values()


def test_many_reloads_under_requests_fail_none(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        fairlead.start()
        for round_index in range(20):
            fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint(f"e{round_index}")]}])
            assert fairlead.request("POST", "/reload", fairlead.admin)[0] == 200
            assert fairlead.get("/who")[1]["endpoints"] == [f"e{round_index}"]


def test_changed_certificates_are_taken_up_and_bad_ones_are_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    _issue(authority, cert, key)
    tls = {"cert": str(cert), "key": str(key)}
    with router(tmp_path, listeners=[{"address": "127.0.0.1:0", "tls": tls}]) as fairlead:
        fairlead.start()
        key.write_text("half")
        wait_until(lambda: "is no good" in fairlead.stderr(), "the bad pair is noticed")
        _issue(authority, cert, key)
        wait_until(lambda: "has changed and is in use now" in fairlead.stderr(), "the good pair is noticed")


def test_the_new_certificate_is_served_to_new_connections_and_open_ones_go_on(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    _issue(authority, cert, key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = {"cert": str(cert), "key": str(key)}

    with router(tmp_path, REAL, listeners=[{"address": "127.0.0.1:0", "tls": tls}]) as fairlead:
        fairlead.start()

        def connect() -> ssl.SSLSocket:
            return context.wrap_socket(fairlead.connect(), server_hostname="localhost")

        with connect() as before:
            old = before.getpeercert(binary_form=True)
            _issue(authority, cert, key)
            wait_until(
                lambda: "has changed and is in use now" in fairlead.stderr(), "the new pair is noticed"
            )

            def is_new() -> bool:
                with connect() as after:
                    return after.getpeercert(binary_form=True) != old

            wait_until(is_new, "the new certificate is served")
            before.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in before.recv(100)


def test_a_missing_certificate_ends_the_start_with_its_name(tmp_path: Path) -> None:
    tls = {"cert": str(tmp_path / "none.pem"), "key": str(tmp_path / "none.key")}
    with router(tmp_path, listeners=[{"address": "127.0.0.1:0", "tls": tls}]) as fairlead:
        process = fairlead.start(wait=False)
        assert process.wait(BOUND_S) != 0
        assert "none.pem" in fairlead.stderr()


def _endpoints_of_all_workers(fairlead: Router) -> list[tuple[str, ...]]:
    """What each worker serves, each different answer once."""
    by_worker: dict[int, list[str]] = {}
    for row in fairlead.get("/debug/pools", fairlead.admin)[1]:
        by_worker.setdefault(row["worker"], []).append(row["endpoint"])
    assert len(by_worker) == fairlead.config.get("workers", 1)
    return sorted({tuple(names) for names in by_worker.values()})


def _run_reload_command(fairlead: Router) -> subprocess.CompletedProcess[str]:
    run_dir = fairlead.config["runtime_dir"]
    assert control_path_of(run_dir, "127.0.0.1:0").exists()
    code = (
        "import sys; from router.app import request_reload;"
        f"sys.exit(request_reload(admin_address='127.0.0.1:0', runtime_dir={run_dir!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND_S, check=False
    )


def _issue(authority: trustme.CA, cert: Path, key: Path) -> None:
    issued = authority.issue_cert("localhost")
    key.write_bytes(issued.private_key_pem.bytes())
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
