"""The one way to a `Config`, from a file or from options; everything wrong with it is reported at once.

    text ── config_source ──► values with places ── check ──► schema.Config ── schema.validate ──► Config
    options ────────────────► values

Control reads its own settings (`load_settings`) and operators' documents (`parse_document`) the same way.
Invariant: a `Config` comes out whole and consistent, or a `ConfigError` with all problems does, but for those
that hang on a value that cannot be read; nothing is half applied. Secrets are read here (`file:/path`) and
masked in every dump. Neighbours: cli.py, the supervisor on reload, control.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from router import limits
from router.config_source import ConfigProblem, Source, read_source
from router.schema.config import Config, Endpoint, EndpointList
from router.schema.faults import Doubts, Fault, Path, dotted
from router.schema.files import find_file_faults
from router.schema.secret import MASK, Secret
from router.schema.validate import find_faults, find_list_faults
from router.schema.words import bare_type, describe, fields_of, key_places, metas_of, nearest, union_members

SECRET_BYTES_MAX = 8192  # keys are tens of bytes, JWTs a few KiB; a larger file is not a secret but a mistake

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

Settings = TypeVar("Settings", bound=Struct)

KEY_PLACES_SHOWN_MAX = 3  # where a key that is not known here belongs; `name` is nearly everywhere


class ConfigError(Exception):
    """Why there is no configuration: every problem, in the order of the file."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        ordered = sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))
        super().__init__("\n".join(str(problem) for problem in ordered[: limits.CONFIG_PROBLEMS_MAX]))
        self.problems = ordered[: limits.CONFIG_PROBLEMS_MAX]
        self.left_out_count = len(ordered) - len(self.problems)


def load_config(path: str | FilePath, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in the file at `path`; its `${ENV}` come from `environ`, or the process's own.

    Raises: ConfigError.
    """
    return parse_config(_read_text(path), str(path), environ)


def load_settings(
    path: str | FilePath, schema: type[Settings], find: Callable[[Settings, Doubts], Iterable[Fault]]
) -> Settings:
    """The file at `path` as another `schema`, whose fields all have defaults; `find` says what types cannot.

    Raises: ConfigError.
    """
    source = read_source(_read_text(path), str(path), os.environ)
    return _build(source, schema, find)


def _read_text(path: str | FilePath) -> str:
    file = str(path)
    try:
        with open(file, "rb") as stream:
            data = stream.read(limits.CONFIG_BYTES_MAX + 1)
    except OSError as exc:
        problem = ConfigProblem(
            file, None, None, "", f"cannot be read: {exc.strerror}", "a YAML or JSON file"
        )
        raise ConfigError([problem]) from exc
    if len(data) > limits.CONFIG_BYTES_MAX:
        _refuse(ConfigProblem(file, None, None, "", "too large", f"at most {limits.CONFIG_BYTES_MAX} bytes"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        _refuse(ConfigProblem(file, line, column, "", "not UTF-8", "UTF-8 text"))
    return text


def parse_config(text: str, file: str = "<text>", environ: Mapping[str, str] | None = None) -> Config:
    """As load_config, for text that has been read already; `file` is its name in problems.

    Raises: ConfigError.
    """
    source = read_source(text, file, os.environ if environ is None else environ)
    return _build_config(source)


def parse_document(text: str, file: str = "<text>", environ: Mapping[str, str] | None = None) -> Config:
    """As parse_config, for a file that routers on other machines will serve by.

    Secrets that are `${NAME}` or `file:/path` stay references, since they are read where they are used; no
    file is looked at. Raises: ConfigError.
    """
    source = read_source(text, file, os.environ if environ is None else environ, is_elsewhere=True)
    return _build_config(source)


def check_config(config: Config) -> None:
    """Raises: ConfigError for a well-typed one that contradicts itself, or whose files are of no use."""
    doubts = Doubts()
    faults = [*find_faults(config, doubts), *find_file_faults(config, doubts)]
    if faults:
        raise ConfigError(
            [
                ConfigProblem("snapshot", None, None, dotted(fault.path), fault.message, fault.expected)
                for fault in faults
            ]
        )


def parse_endpoints(
    text: str, file: str = "<text>", environ: Mapping[str, str] | None = None
) -> tuple[Endpoint, ...]:
    """As parse_document, for a list of endpoints that is not part of one: `endpoints`, as in a pool.

    Raises: ConfigError.
    """
    source = read_source(text, file, os.environ if environ is None else environ, is_elsewhere=True)
    if isinstance(source.values, dict) and "endpoints" not in source.values:
        # An empty list is written as one; a file that has only begun to be one says nothing.
        source.report((), "the key 'endpoints' is missing", "endpoints: with a list, which may be empty")
    return _build(source, EndpointList, find_list_faults).endpoints


def read_endpoints(path: str | FilePath) -> tuple[Endpoint, ...]:
    """As parse_endpoints, for the file at `path`. Raises: ConfigError."""
    return parse_endpoints(_read_text(path), str(path))


def read_reference(reference: str, environ: Mapping[str, str] | None = None) -> Secret:
    """The secret behind `${NAME}` or `file:/path`. Raises: ConfigError."""
    variable = _VARIABLE.fullmatch(reference)
    if variable is None:
        return read_secret(reference, "secret")
    value = (os.environ if environ is None else environ).get(variable[1])
    if not value:
        problem = f"the environment variable {variable[1]} is not set"
        _refuse(ConfigProblem("secret", None, None, "", problem, "a value for it where the router runs"))
    return Secret(value, reference)


def config_from_options(
    *,
    endpoints: Sequence[str],
    listen: Sequence[str] = (),
    admin: str | None = None,
    admin_token: str | None = None,
    workers: int | None = None,
    policy: str | None = None,
    access_log: str | None = None,
    runtime_dir: str | None = None,
    drain_deadline_ms: int | None = None,
) -> Config:
    """What the options of `fairlead serve` stand for; the endpoints make one default pool for any model.

    An absent option is the schema's default. Raises: ConfigError, naming the option.
    """
    pool: dict[str, Any] = {
        "name": "default",
        "default": True,
        "endpoints": [{"url": url} for url in endpoints],
    }
    # Whoever starts without a file tries things out and wants to see which endpoint answered.
    values: dict[str, Any] = {"pools": [pool], "routes": [{"name": "all", "expose_endpoint": True}]}
    source = Source("command line", values)
    source.options["pools", 0, "endpoints"] = "--endpoint"
    if listen:
        values["listeners"] = [{"address": address} for address in listen]
        source.options["listeners",] = "--listen"
    if policy is not None:
        pool["policy"] = {"type": policy}
        source.options["pools", 0, "policy"] = "--policy"
    for path, value, option in (
        (("admin", "address"), admin, "--admin"),
        (("admin", "token"), admin_token, "--admin-token"),
        (("workers",), workers, "--workers"),
        (("access_log", "path"), access_log, "--access-log"),
        (("runtime_dir",), runtime_dir, "--runtime-dir"),
        (("drain", "deadline_ms"), drain_deadline_ms, "--drain-deadline-ms"),
    ):
        if value is not None:
            section = values
            for step in path[:-1]:
                section = section.setdefault(step, {})
            section[path[-1]] = value
            source.options[path] = option
    return _build_config(source)


def read_secret(text: str, option: str) -> Secret:
    """The secret that the command-line `option` was given, written out or as file:/path.

    Raises: ConfigError.
    """
    source = Source("command line", options={(): option})
    secret = _secret(text, (), source)
    if source.problems:
        raise ConfigError(source.problems)
    assert isinstance(secret, Secret)
    return secret


def redacted(config: Config) -> dict[str, Any]:
    """Every value of `config`, defaults included, as plain lists and mappings; secrets masked."""
    values: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(config, enc_hook=lambda secret: secret.masked())
    )
    return values


def _refuse(problem: ConfigProblem) -> NoReturn:
    raise ConfigError([problem])


def _build_config(source: Source) -> Config:
    def find(config: Config, doubts: Doubts) -> list[Fault]:
        files = [] if source.is_elsewhere else find_file_faults(config, doubts)
        return [*find_faults(config, doubts), *files]

    return _build(source, Config, find)


def _build(
    source: Source, schema: type[Settings], find: Callable[[Settings, Doubts], Iterable[Fault]]
) -> Settings:
    if source.values is None:
        raise ConfigError(source.problems)
    reported = {problem.path for problem in source.problems}
    unread = len(source.problems)
    values = _checked(schema, source.values, (), source)
    # A value that could not be read is wrong once, not once more because what stands in for it is.
    source.problems[unread:] = [
        problem for problem in source.problems[unread:] if problem.path not in reported
    ]
    if () in source.left_out:
        raise ConfigError(source.problems)
    sound = {name: info for name, info in fields_of(schema).items() if name in values}
    settings = schema(**{name: _built(info.type, values[name]) for name, info in sound.items()})
    doubts = Doubts(source.values, source.left_out, source.unknown, source.kept)
    for fault in find(settings, doubts):
        source.report(*fault)
    if source.problems:
        raise ConfigError(source.problems)
    return settings


def _built(annotation: Any, value: Any) -> Any:
    return msgspec.convert(value, annotation, dec_hook=lambda _type, secret: secret)


# ---- values against types
# msgspec.convert stops at the first error; this finds them all and knows where each one is.


def _checked(annotation: Any, value: Any, path: Path, source: Source) -> Any:
    """`value` as msgspec will take it for `annotation`; what it would not take is reported."""
    inner = bare_type(annotation)
    options = union_members(inner)
    if options:
        if value is None and type(None) in options:
            return None
        members = [option for option in options if option is not type(None)]
        if len(members) > 1 and bare_type(members[0]) is str:  # a name, or a mapping that says more
            return _checked(members[isinstance(value, dict)], value, path, source)
        if len(members) > 1:
            return _checked_tagged(members, value, path, source)
        return _checked(members[0], value, path, source)
    if isinstance(inner, type) and issubclass(inner, Struct):
        return _checked_struct(inner, value, path, source)
    if get_origin(inner) is tuple:
        return _checked_list(annotation, value, path, source)
    if get_origin(inner) is dict:
        return _checked_dict(annotation, value, path, source)
    return _checked_leaf(annotation, value, path, source)


def _checked_struct(cls: type[Struct], value: Any, path: Path, source: Source) -> Any:
    if value is None:
        value = {}  # a key whose fields are all commented out
    if not isinstance(value, dict):
        source.report(
            path,
            f"{_shown(value)} is not a mapping",
            f"a mapping with {_some(list(fields_of(cls).values()))}",
        )
        return value
    fields = fields_of(cls)
    tag_field = cls.__struct_config__.tag_field
    result = {}
    for key, item in value.items():
        if key == tag_field:
            result[key] = item
        elif key not in fields:
            expected = _expected_key(key, fields, is_choice=tag_field is not None)
            source.report((*path, key), f"unknown key {key!r}", expected, at_key=True)
            source.unknown.add((*path, key))
        else:
            taken = _checked(fields[key].type, item, (*path, key), source)
            if (*path, key) not in source.left_out:
                result[key] = taken
    for name, info in fields.items():
        if info.required and name not in value:
            source.report(path, f"the key {name!r} is missing", describe(info.type), leaves_out=(*path, name))
        if info.required and name not in result and path:
            source.left_out.add(path)  # it cannot be without
    return result


def _expected_key(key: str, fields: Mapping[str, structs.FieldInfo], *, is_choice: bool) -> str:
    """What may stand in the place of an unknown key."""
    guess = nearest(key, fields)
    if guess:
        return f"{guess!r} perhaps"
    places = key_places(Config).get(key, [])
    if places and not is_choice:  # of a policy, other policies' keys would be shown at this very place
        return f"{' or '.join(places[:KEY_PLACES_SHOWN_MAX])}, where that key belongs"
    return f"one of: {', '.join(fields)}" if fields else "no key here"


def _checked_tagged(members: list[Any], value: Any, path: Path, source: Source) -> Any:
    tags = {member.__struct_config__.tag: member for member in members}
    tag_field = members[0].__struct_config__.tag_field
    expected = f"one of: {', '.join(tags)}"
    if not isinstance(value, dict) or tag_field not in value:
        what = "is not a mapping" if not isinstance(value, dict) else f"has no {tag_field!r}"
        source.report(path, f"{_shown(value)} {what}", f"{{{tag_field}: NAME}} with NAME {expected}")
        return value
    tag = value[tag_field]
    if not isinstance(tag, str) or tag not in tags:
        guess = nearest(str(tag), tags)
        source.report(
            (*path, tag_field),
            f"{_shown(tag)} is unknown",
            f"{guess!r} perhaps; {expected}" if guess else expected,
            leaves_out=path,
        )
        return value
    return _checked_struct(tags[tag], value, path, source)


def _checked_list(annotation: Any, value: Any, path: Path, source: Source) -> Any:
    if not isinstance(value, list):
        source.report(path, f"{_shown(value)} is not a list", describe(annotation))
        return value
    _check_length(annotation, value, path, source)
    item_type = get_args(bare_type(annotation))[0]
    taken = {index: _checked(item_type, item, (*path, index), source) for index, item in enumerate(value)}
    kept = {index: item for index, item in taken.items() if (*path, index) not in source.left_out}
    if len(kept) < len(taken):
        source.kept[path] = list(kept)
        if any(meta.min_length and len(kept) < meta.min_length for meta in metas_of(annotation)):
            source.left_out.add(path)
    return list(kept.values())


def _checked_dict(annotation: Any, value: Any, path: Path, source: Source) -> Any:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        source.report(path, f"{_shown(value)} is not a mapping", describe(annotation))
        return value
    _check_length(annotation, value, path, source)
    key_type, item_type = get_args(bare_type(annotation))
    result = {}
    for key, item in value.items():
        try:
            msgspec.convert(key, key_type)
        except msgspec.ValidationError:
            source.report(
                (*path, key), f"{_shown(key)} cannot be a key here", describe(key_type), at_key=True
            )
            continue
        taken = _checked(item_type, item, (*path, key), source)
        if (*path, key) not in source.left_out:
            result[key] = taken
    return result


def _check_length(annotation: Any, value: Any, path: Path, source: Source) -> None:
    for meta in metas_of(annotation):
        if (meta.min_length is not None and len(value) < meta.min_length) or (
            meta.max_length is not None and len(value) > meta.max_length
        ):
            source.report(path, f"{len(value)} entries", describe(annotation))


def _checked_leaf(annotation: Any, value: Any, path: Path, source: Source) -> Any:
    inner = bare_type(annotation)
    wants_text = inner is Secret or (isinstance(inner, type) and issubclass(inner, str))
    if wants_text and value is not None and not isinstance(value, str) and path in source.texts:
        value = source.texts[path]  # 1.2, 007, true: unquoted, and meant as text
    if inner is Secret:
        return _secret(value, path, source)
    if source.is_elsewhere and path in source.references and value in (None, ""):
        variable = source.references[path][2:-1]
        source.report(
            path,
            f"the environment variable {variable} is not set",
            "a value for it here: only secrets are filled in by the routers",
        )
        return value
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        source.report(path, f"{_shown(value)} is not allowed here", describe(annotation))
    return value


def _secret(value: Any, path: Path, source: Source) -> Any:
    expected = "file:/path, ${ENV} or the secret itself"
    reference = source.references.get(path)
    if source.is_elsewhere and reference is not None:
        return Secret(None, reference)
    if not isinstance(value, str):
        source.report(path, "not text", expected)
        return value
    if value == MASK:
        source.report(path, "this is the mask of a redacted dump", expected)
    if not value.startswith("file:"):
        return Secret(value, reference)
    name = value.removeprefix("file:")
    if not name.startswith("/"):
        source.report(path, f"{value!r} is relative", "an absolute path: file:/path")
        return value
    if source.is_elsewhere:
        return Secret(None, value)
    try:
        with open(name, "rb") as stream:
            data = stream.read(SECRET_BYTES_MAX + 1)
        if len(data) > SECRET_BYTES_MAX:
            source.report(path, f"{name!r} is too large for a secret", f"at most {SECRET_BYTES_MAX} bytes")
        return Secret(data.decode().strip("\r\n"), value)
    except OSError as exc:
        source.report(path, f"{name!r} cannot be read: {exc.strerror}", "a file that this user can read")
    except UnicodeDecodeError:
        source.report(path, f"{name!r} is not text", "UTF-8 text")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _some(fields: Sequence[structs.FieldInfo]) -> str:
    return ", ".join(info.encode_name for info in fields[:6]) + (", ..." if len(fields) > 6 else "")
