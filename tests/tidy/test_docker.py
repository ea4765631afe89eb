"""The image and its examples, as far as they can be held to something without a container engine.

The Dockerfile is read into its instructions; shell lines must parse, copied paths exist, and the commands of
all three files must be ones that the command line takes.
"""

import ast
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from bench.mock.cli import mock
from router.cli import main
from router.schema.config import Config
from tests.tidy.tree import ROOT, text

DOCKER = Path("docker")
COMMANDS: dict[str, click.Command] = {"serve": main.commands["serve"], "mock": mock}


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), comments dropped and continued lines joined."""
    source = re.sub(r"^\s*#.*\n", "", text(DOCKER / "Dockerfile"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", source).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def of(stage: list[tuple[str, str]], wanted: str) -> list[str]:
    return [rest for name, rest in stage if name == wanted]


def options(rest: str) -> list[str]:
    return re.findall(r"--[a-z-]+=\S+", rest)


def probes() -> list[str]:
    """Every `python -c` that asks whether something lives."""
    compose = yaml.safe_load(text(DOCKER / "compose.yaml"))
    tests = [
        each["healthcheck"]["test"][1:] for each in compose["services"].values() if "healthcheck" in each
    ]
    container = sidecar()["spec"]["initContainers"][0]
    tests += [container[name]["exec"]["command"] for name in ("startupProbe", "livenessProbe")]
    tests.append(json.loads(re.search(r"\[.*\]", of(stages()[-1], "HEALTHCHECK")[0])[0]))  # type: ignore[index]
    assert all(test[:2] == ["python", "-c"] for test in tests)
    return [test[2] for test in tests]


def sidecar() -> Any:
    return list(yaml.safe_load_all(text(DOCKER / "sidecar.yaml")))[1]


def arguments(command: list[str]) -> None:
    """Raises: click.UsageError when the command line would not take them."""
    # With its parent, as on the command line: a command remembers the help option of its first context.
    parent = click.Context(main, info_name="fairlead", **main.context_settings)
    COMMANDS[command[0]].make_context(command[0], list(command[1:]), parent=parent)


def test_known_instructions_only_and_no_file_from_the_network() -> None:
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "LABEL", "USER", "EXPOSE", "STOPSIGNAL"}
    known |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known


def test_the_image_is_of_a_stage_without_compiler() -> None:
    last = stages()[-1]
    assert len(stages()) == 2
    assert not any("apt-get" in rest or "gcc" in rest for rest in of(last, "RUN"))
    assert all(options(rest)[0] == "--from=build" for rest in of(last, "COPY"))


def test_both_stages_have_one_base_of_a_named_version_that_the_package_takes() -> None:
    bases = {of(stage, "FROM")[0].split()[0] for stage in stages()}
    assert len(bases) == 1
    assert re.fullmatch(r"python:\$\{PYTHON_VERSION\}-slim-\w+", bases.pop())
    version = re.fullmatch(r"PYTHON_VERSION=3\.(\d+)", instructions()[0][1])
    assert version
    assert int(version[1]) >= 11


def test_the_image_runs_as_a_numbered_user_and_is_stopped_by_a_signal_that_drains() -> None:
    last = stages()[-1]
    user, group = of(last, "USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert of(last, "STOPSIGNAL") == ["SIGTERM"]


def test_shell_lines_parse() -> None:
    for stage in stages():
        for rest in of(stage, "RUN"):
            subprocess.run(["sh", "-n", "-c", rest], check=True)


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    rules = text(DOCKER / "Dockerfile.dockerignore").splitlines()
    assert "*" in rules
    for rest in of(stages()[0], "COPY"):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in rules


def test_no_build_output_reaches_the_builder() -> None:
    rules = [line.removeprefix("**/") for line in text(DOCKER / "Dockerfile.dockerignore").splitlines()]
    for name in ("http1.cpython-311.so", "http1.c", "__pycache__"):
        assert any(fnmatch(name, rule) for rule in rules[rules.index("!bench") :])


def test_the_image_starts_without_a_shell_a_command_line_that_is_taken() -> None:
    last = stages()[-1]
    assert json.loads(of(last, "ENTRYPOINT")[0]) == ["fairlead"]
    arguments(json.loads(of(last, "CMD")[0]))


def test_the_image_says_what_it_is() -> None:
    labels = " ".join(of(stages()[-1], "LABEL"))
    for name in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("probe", probes())
def test_probes_are_python_that_fails_when_nobody_answers(probe: str) -> None:
    ast.parse(probe)
    closed = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", probe)
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    failed = subprocess.run([sys.executable, "-c", closed], env=clean, capture_output=True, check=False)
    assert failed.returncode != 0
    assert b"Connection refused" in failed.stderr


def test_commands_of_the_compose_example_are_taken() -> None:
    services = yaml.safe_load(text(DOCKER / "compose.yaml"))["services"]
    for service in services.values():
        arguments(service["command"])
    waits = services["router"]["depends_on"]
    named = re.findall(r"http://([\w-]+):8000", " ".join(services["router"]["command"]))
    assert sorted(named) == sorted(waits)


def test_the_sidecar_is_native_locked_down_and_configured_by_a_valid_file() -> None:
    config_map, pod = yaml.safe_load_all(text(DOCKER / "sidecar.yaml"))
    config = msgspec.convert(yaml.safe_load(config_map["data"]["fairlead.yaml"]), Config, strict=False)
    container = pod["spec"]["initContainers"][0]
    assert container["restartPolicy"] == "Always"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > config.drain.deadline_ms / 1000
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        each["name"] for each in pod["spec"]["volumes"]
    }
    arguments(container["args"])
