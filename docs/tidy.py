"""Keep the pages readable as plain files: the code that they show is in them, and paragraphs end at one column.

    python docs/tidy.py            # write what differs
    python docs/tidy.py --check    # say what differs, status 1

A fenced block after ``<!-- save NAME from PATH -->`` or ``<!-- from PATH -->`` is the file PATH, whole; so is a
paragraph after such a comment. Nothing else is touched but where lines end: not code, tables, headings, pictures.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WIDTH = 100
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted(
        path for path in (ROOT / "docs").rglob("*.md") if "adr" not in path.parts and path.name != "tested-with.md"
    ),
]
_FROM = re.compile(r"<!-- (?:save \S+ )?from (?P<path>\S+) -->")
_FENCE = re.compile(r"\s*(```|~~~)")
_AS_IT_IS = re.compile(r"\s*(#|\||<|!\[[^\]]*\]\([^)]*\)$|:::|!!!|--8<--|    )")
_ITEM = re.compile(r"(?P<indent>\s*)(?P<mark>[-*]|\d+\.) +(?P<text>.*)")
_STARTS_SOMETHING = re.compile(r"([-+*>#|]+|\d+[.)])$")
_NUMBER = re.compile(r"\d$")
_UNIT = re.compile(r"(s|ms|µs|kB|MB|GB|GiB|%|×|Mbit/s)[.,;:)*]*")
_CODE = re.compile(r"(`+).+?\1")


def tidy(text: str) -> str:
    """Return a page with the files that it shows and its paragraphs wrapped."""
    lines, done, shown = text.splitlines(), [], None
    while lines:
        line = lines.pop(0)
        if _FENCE.match(line):
            inside = [line]
            while not _FENCE.match(lines[0]):
                inside.append(lines.pop(0))
            done += inside if shown is None else [line, *_content(shown).splitlines()]
            done.append(lines.pop(0))
            shown = None
        elif not line.strip() or (_AS_IT_IS.match(line) and not _ITEM.match(line)):
            done.append(line)
            found = _FROM.fullmatch(line)
            shown = found["path"] if found else shown if not line.strip() else None
        else:
            paragraph = [line]
            while lines and _goes_on(lines[0]):
                paragraph.append(lines.pop(0))
            done += _wrapped([_content(shown)] if shown is not None else paragraph)
            shown = None
    return "\n".join(done) + "\n"


def _content(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8").rstrip()


def _goes_on(line: str) -> bool:
    """Whether a line belongs to the paragraph before it."""
    if not line.strip() or _FENCE.match(line) or _ITEM.match(line):
        return False
    return not re.match(r"(#|\||<!--|:::|!!!)", line.lstrip())


def _wrapped(paragraph: list[str]) -> Iterator[str]:
    """Return the lines of a paragraph, or of an item of a list."""
    if any(line.endswith(("  ", "\\")) for line in paragraph):  # its lines end where they are meant to
        yield from paragraph
        return
    item = _ITEM.fullmatch(paragraph[0])
    begin = f"{item['indent']}{item['mark']} " if item else re.match(r"\s*", paragraph[0])[0]  # type: ignore[index]
    text = " ".join([item["text"] if item else paragraph[0].strip(), *(line.strip() for line in paragraph[1:])])
    line = begin
    for word in _words(text):
        if line.strip() and line != begin and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = " " * len(begin)
        line += word if line in (begin, " " * len(begin)) else f" {word}"
    yield line


def _words(text: str) -> list[str]:
    """Return what may not be broken: words, code, a number with its unit, what would begin a list or a heading."""
    kept = _CODE.sub(lambda code: code[0].replace(" ", "\0"), text)
    words: list[str] = []
    for word in kept.split():
        if words and (_STARTS_SOMETHING.fullmatch(word) or (_NUMBER.search(words[-1]) and _UNIT.fullmatch(word))):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return [word.replace("\0", " ") for word in words]


def main(check: bool) -> int:
    """Tidy the pages, or name those that are not."""
    untidy = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (better := tidy(text)) != text:
            untidy.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(better, encoding="utf-8")
    if untidy:
        sys.stderr.write(f"{'not tidy' if check else 'tidied'}: {', '.join(untidy)}\n")
    return 1 if check and untidy else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
