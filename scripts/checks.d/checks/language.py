"""The rules of `scripts/language-check`."""

import re
from collections.abc import Iterator
from pathlib import Path

from checks.source import comments, tracked, without_code

GLOSSARY = "CONTRIBUTING.md"
RUST = ("src/*.rs", "crates/*.rs", "tests/*.rs", "clients/rust/*.rs", "examples/*.rs", "benches/*.rs", "benchmarks/*.rs", "fuzz/*.rs")
MARKDOWN = ("*.md",)
# Contexts in which a word of the glossary's last column is the established term.
ESTABLISHED = {"letter": r"(?<!dead )(?<!dead-)"}

PRONOUNS = {"it", "its", "they", "them", "their", "those", "these", "that", "others", "nothing", "nobody", "everything", "all of"}
QUESTIONS = {"what", "which", "who", "whom", "whose", "how", "why", "where", "when"}
PREPOSITIONS = {
    "of", "in", "for", "since", "beside", "behind", "until", "before", "after", "from", "by", "with", "without", "at", "to",
    "as", "on", "between", "among", "beyond",
}
CONNECTORS = {"then", "so", "not", "and", "but", "or", "the same", "else"}
# Words that follow "One", "Some" or "Both" where these stand alone instead of before a noun.
NOT_A_NOUN = {
    "of", "is", "are", "was", "were", "has", "have", "had", "may", "can", "must", "will", "that", "who", "which", "after",
    "more", "by", "in", "at", "for", "to", "and", "or",
}
# Words that begin a main clause, beside plural nouns and code, and words that are its verb.
SUBJECTS = {"the", "a", "an", "each", "every", "all", "no", "any", "only", "this", "these", "it", "they", "one", "two", "some", "both"}
VERB = re.compile(r"\b(is|are|was|were|has|have|had|does|do|can|cannot|may|must|will|would|should|might|could|\w{3,}(s|ed))\b")
WEAK_SUBJECTS = {"it", "its", "they", "them", "that", "those", "there", "one", "he", "she", "what", "who", "so", "is", "are", "was", "to"}


def main(root: Path, arguments: list[str]) -> int:
    words = replaced_words((root / GLOSSARY).read_text())
    if not words:
        print(f"{GLOSSARY}: found no glossary with a column 'do not use'")
        return 2
    problems = [problem for path in chosen(root, arguments) for problem in check(path, (root / path).read_text(), words)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def chosen(root: Path, arguments: list[str]) -> list[str]:
    """The files to check: all of the project, or those at or below the given paths."""
    paths = tracked(root, *RUST, *MARKDOWN)
    given = [str(Path(argument).resolve().relative_to(root)) for argument in arguments]
    return [path for path in paths if not given or any(path == g or path.startswith(f"{g}/") or g == "." for g in given)]


def replaced_words(glossary: str) -> dict[str, str]:
    """Words that are not used, each with the term that replaces it, from the tables with the columns `use` and `do not use`."""
    words: dict[str, str] = {}
    columns: tuple[int, int] | None = None
    for line in glossary.split("\n"):
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "use" in cells and "do not use" in cells:
            columns = (cells.index("use"), cells.index("do not use"))
        elif columns and len(cells) > max(columns):
            for word in re.findall(r"`([^`]+)`", cells[columns[1]]):
                words[word.lower()] = cells[columns[0]]
    return words


def check(path: str, text: str, words: dict[str, str]) -> Iterator[str]:
    """The problems of one file, as lines `file:line: rule: …`."""
    if path.endswith(".md"):
        prose = "\n".join(without_code(text))
        for offset, message in word_problems(prose, words):
            number = 1 + prose.count("\n", 0, offset)
            yield f"{path}:{number}: {message}"
        return
    fenced = re.compile(r"^\s*(```|~~~)")
    for comment in comments(text):
        lines, is_code = [], False
        for line in comment.text.split("\n"):
            is_fence = bool(fenced.match(line))
            lines.append("" if is_code or is_fence else line)
            is_code ^= is_fence
        prose = "\n".join(lines)
        for offset, message in word_problems(prose, words):
            number = comment.line + prose.count("\n", 0, offset)
            yield f"{path}:{number}: {message}"
        if comment.kind != "//":
            opening = opening_problem(prose)
            if opening:
                yield f"{path}:{comment.line}: {opening}"


def word_problems(text: str, words: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Offsets and messages of words that the glossary replaces. Code spans and link targets are no prose."""
    prose = re.sub(r"`[^`\n]*`|\]\([^)\n]*\)", lambda match: "x" * len(match.group()), text).replace("\n", " ")
    for word, better in words.items():
        before = ESTABLISHED.get(word, "")
        for match in re.finditer(rf"{before}\b{re.escape(word)}(?:s|es)?\b", prose, re.IGNORECASE):
            yield match.start(), f"word: write \"{better}\" instead of \"{match.group()}\""


def opening_problem(text: str) -> str | None:
    """Why a doc comment does not make sense without the line above it; `None` if it does."""
    plain = " ".join(re.sub(r"`[^`]*`", "Code", text).split()).lstrip("[*_")
    match = re.match(r"[A-Za-z]+(?:[-'][A-Za-z]+)*", plain)
    if not match or "-" in match.group():
        return None
    sentence = re.split(r"(?<=[a-z0-9)\]])\.(?:\s|$)", plain, maxsplit=1)[0]
    following = [word.lower() for word in re.findall(r"[A-Za-z0-9_'-]+", sentence)]
    first = following[0]
    second = following[1] if len(following) > 1 else ""
    pair = f"{first} {second}"
    if pair in CONNECTORS or pair in PRONOUNS:
        first = pair
    if not is_bare(first, second, following, sentence):
        return None
    kind = "pronoun" if first in PRONOUNS | {"one", "some", "both", "either"} else "question word" if first in QUESTIONS else "preposition or connector"
    return f"opening: begins with the {kind} \"{plain.split()[0]}\"; begin with the subject: what the item is or does"


def is_bare(first: str, second: str, words: list[str], sentence: str) -> bool:
    """Whether an opening word stands without the noun or the main clause that it needs."""
    if first in PRONOUNS:
        return not (first == "these" and second.endswith("s") and len(second) > 2)
    if first in {"one", "some", "both", "either"}:
        return second in NOT_A_NOUN or not second
    if first in QUESTIONS:
        if first == "how" and second in {"long", "many", "much", "often", "far", "large"}:
            return len(words) < 5 or words[2] in WEAK_SUBJECTS
        return first not in {"when", "where"} or not has_main_clause(sentence)
    if first in PREPOSITIONS:
        if first == "at" and second in {"most", "least"}:
            return len(words) < 3
        return not has_main_clause(sentence)
    return first in CONNECTORS


def has_main_clause(sentence: str) -> bool:
    """Whether a comma ends the introduction, and a clause with a subject and a verb follows."""
    introduction, comma, clause = sentence.partition(", ")
    words = clause.removeprefix("then ").split()
    if not comma or len(words) < 3 or re.search(r"[:;.]", introduction):
        return False
    first = words[0]
    has_subject = first.lower() in SUBJECTS or first.endswith("s") or first[0].isupper() or first.startswith("[")
    return has_subject and bool(VERB.search(" ".join(words[1:])))
