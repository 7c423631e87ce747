"""What looks like a password or a token: it stays out of names and of the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_SECRET = {
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "secrets",
    "credential",
    "credentials",
    "apikey",
    "auth",
}
_KEYS_OF = {"api", "access", "secret", "private", "auth", "wandb", "license"}  # so and so-key
# Tokens of a tokenizer, not of a service.
_TEXT = {"pad", "eos", "bos", "mask", "unk", "sep", "cls", "special", "image", "stop", "start", "end", "next", "per"}
_VALUE = re.compile(
    r"(?:hf_|sk-(?!learn)|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|AIza|eyJ)[\w-]{4,}|[^/\s]+://[^/\s:@]*:[^/\s@]+@"
)
_FLAG = re.compile(r"--?[^\W\d][^=]*")
_WORD = re.compile(
    r"""(?:[^\s"']|"(?:\\.|[^"\\])*"|'[^']*'|["'])+"""
)  # of a shell; a quote that is left open is a letter


def is_secret(key: str, value: object = "") -> bool:
    """Return whether an option of this name, or a value like this one, is to be kept to oneself."""
    words = [word.lower() for word in _WORDS.findall(key)]
    if words and (_SECRET & set(words)):
        return True
    if words and words[-1] == "token" and (len(words) < 2 or words[-2] not in _TEXT):
        return True
    if words and words[-1] == "key" and len(words) > 1 and words[-2] in _KEYS_OF:
        return True
    return isinstance(value, str) and _VALUE.match(value) is not None


def masked(value: Any, key: str = "") -> Any:
    """Return ``value``, made of what JSON knows, with every secret in it replaced."""
    if isinstance(value, Mapping):
        return {name: masked(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return masked_words(value)
    if isinstance(value, str) and " " in value:
        return _masked_arguments(value)
    return HIDDEN if value not in (None, "", True, False) and is_secret(key, value) else value


def _masked_arguments(text: str) -> str:
    """Return arguments in one text, masked; a word may be quoted, and hold arguments itself."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return f"{text[0]}{masked(text[1:-1])}{text[-1]}"
    words = iter(masked_words(match[0] for match in _WORD.finditer(text)))
    return _WORD.sub(lambda _: str(next(words)), text)


def masked_words(words: Iterable[Any]) -> list[Any]:
    """Return the words of a command with the values of its secret options, and what else looks like one, replaced."""
    found: list[Any] = []
    hide = False
    for word in words:
        if not isinstance(word, str):
            found.append(masked(word))
            continue
        flag, equals, value = word.partition("=")
        is_flag = _FLAG.fullmatch(flag) is not None
        if is_flag and equals and (" " in value or is_secret(flag, value)):
            found.append(f"{flag}={HIDDEN}" if is_secret(flag, value) else f"{flag}={masked(value)}")
        elif not is_flag and hide:
            found.append(HIDDEN)
        else:
            found.append(masked(word))
        hide = is_flag and not equals and is_secret(flag)
    return found
