"""docs/options.md, written from the options; `python -m tests.nixos.option_docs` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.nixos.support import PROJECT, evaluate

PAGE = PROJECT / "docs" / "options.md"
HEAD = """\
# Options of services.reconciler

Those below `settings` are made from [the document's schema](../schemas/config.schema.json). This
page is written by `python -m tests.nixos.option_docs`.
"""

Option = dict[str, Any]


def page() -> str:
    """The whole page."""
    options = evaluate("options")
    listed = {name: held for name, held in options.items() if not held.get("internal")}
    found = dict(_below("services.reconciler", listed))
    return "\n".join([HEAD, *(_entry(path, found[path]) for path in sorted(found))])


def _below(path: str, options: dict[str, Any]) -> Iterator[tuple[str, Option]]:
    for name, option in options.items():
        at = f"{path}.{name}"
        if "description" not in option:
            yield from _below(at, option)
        else:
            yield at, option
            yield from _within(at, option["type"])


def _within(path: str, type_: dict[str, Any]) -> Iterator[tuple[str, Option]]:
    match type_["kind"]:
        case "submodule":
            yield from _below(path, type_["options"])
        case "attributes":
            yield from _within(f"{path}.<name>", type_["items"])
        case "list":
            yield from _within(f"{path}.*", type_["items"])
        case "nullable":
            yield from _within(path, type_["inner"])
        case "exclusive":
            for alternative in type_["alternatives"].values():
                yield from _within(path, alternative)
        case "either":
            for alternative in type_["alternatives"]:
                yield from _within(path, alternative)
        case _:
            pass


def _entry(path: str, option: Option) -> str:
    lines = [f"- type: {_phrase(option['type'])}"]
    for key in ("default", "example"):
        text = option.get(f"{key}Text", {}).get("text")
        if text is not None:
            lines.append(f"- {key}: {text if '`' in text else f'`{text}`'}")
        elif key in option:
            lines.append(f"- {key}: `{_nix(option[key])}`")
    description = option["description"].replace("{option}", "")
    return f"## `{path}`\n\n{description}\n\n" + "\n".join(lines) + "\n"


def _phrase(type_: dict[str, Any]) -> str:
    match type_["kind"]:
        case "nullable":
            return f"null or {_phrase(type_['inner'])}"
        case "list":
            return f"list of {_phrase(type_['items'])}"
        case "attributes":
            return f"attribute set of {_phrase(type_['items'])}"
        case "enum":
            return "one of " + ", ".join(f"`{_nix(each)}`" for each in type_["values"])
        case "integer" | "number":
            return f"{type_['kind']} from {type_['lowest']} to {type_['highest']}"
        case "exclusive":
            return "exactly one of " + ", ".join(f"`{key}`" for key in type_["alternatives"])
        case "either":
            return " or ".join(map(_phrase, type_["alternatives"]))
        case "json":
            return "any JSON value"
        case kind:
            return str(kind)


def _nix(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
            return f'"{escaped}"'
        case list():
            return " ".join(["[", *map(_nix, value), "]"])
        case dict():
            return " ".join(["{", *(f"{_name(k)} = {_nix(v)};" for k, v in value.items()), "}"])
        case _:
            return str(value)


def _name(key: str) -> str:
    return key if key.replace("_", "").isalnum() else _nix(key)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
