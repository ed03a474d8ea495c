"""Check the house rules (docs/STYLE.md) that a machine can check.

    tidy.py [ROOT]

Prints `file:line: rule: what is wrong` for each finding and exits 1 if there is one. A comment that
contains `style:` and says why, on the line or directly above it (for a long function: anywhere in it),
permits the exception.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

FUNCTION_LINES_MAX = 70
CODE_COLUMNS_MAX = 100
SCRIPT_COLUMNS_MAX = 110
MARKER = "style:"

TOP_LEVEL = {
    "CHANGELOG.md", "CMakeLists.txt", "CMakePresets.json", "LICENSE", "README.md",
    "bench", "broker", "client", "core", "cmake", "dev", "docs", "tests",
}  # fmt: skip

BANNED_CALL = re.compile(
    r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|strtok|strtok_r|atoi|atol|alloca|rand|srand|gets"
    r"|assert)\s*\("
)
FENCE = re.compile(
    r"\b(atomic_thread_fence|atomic_signal_fence|__atomic_thread_fence|__sync_synchronize)\b"
)
PARENT_INCLUDE = re.compile(r'^\s*#\s*include\s*["<][^">]*\.\./')
STRUCT_TYPEDEF = re.compile(r"\btypedef\s+(struct|union|enum)\b")
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME"]) + r")\b")
CALLED_NAME = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
# Functions whose names others chose, and the test macros of Criterion.
FOREIGN_NAME = re.compile(
    r"^(main|LLVMFuzzer\w+|__(asan|tsan|ubsan|lsan)_default_options|__(wrap|real)_\w+"
    r"|Test|TestSuite|Theory|ParameterizedTest|ParameterizedTestParameters)$"
)
DECLARATION = re.compile(r"^[A-Za-z_][\w\s\*]*?\b(midge_\w+)\(")
COMMENT_OR_LITERAL = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)

CODE = {".c", ".h"}
SCRIPT = {".py", ".sh", ".cmake"}
TEXT = CODE | SCRIPT | {".md", ".json", ".txt"}


def blank(match):
    """The matched comment or literal as spaces, so that lines and columns stay where they are."""
    return re.sub(r"[^\n]", " ", match.group(0))


class SourceFile:
    """One file of the tree: `lines` as they are, `code` without comments and literals (C only)."""

    def __init__(self, root, path):
        self.path = path
        self.name = Path(path).name
        self.kind = self.read_kind(root / path)
        self.text = (root / path).read_bytes().decode("utf-8", errors="replace")
        self.lines = self.text.split("\n")
        self.code = COMMENT_OR_LITERAL.sub(blank, self.text).split("\n") if self.kind in CODE else []

    @staticmethod
    def read_kind(full_path):
        if full_path.suffix or full_path.is_symlink():
            return full_path.suffix
        with open(full_path, "rb") as file:
            return ".sh" if file.readline().startswith(b"#!/") else ""

    def is_permitted(self, line, last=None):
        """True if a `style:` comment stands on `line`..`last` (1-based) or in the comment above it."""
        if any(MARKER in text for text in self.lines[line - 1 : last or line]):
            return True
        above = line - 1
        while above >= 1 and self.lines[above - 1].strip().startswith(("*", "/*", "//", "#")):
            if MARKER in self.lines[above - 1]:
                return True
            above -= 1
        return False

    def functions(self):
        """(name, head, first line, last line) of each function definition: its braces are in column 0."""
        for number, line in enumerate(self.code, 1):
            if line.rstrip() != "{":
                continue
            first = number
            while first > 1 and self.continues_head(self.code[first - 2].rstrip()):
                first -= 1
            head = " ".join(self.code[first - 1 : number - 1])
            names = [name for name in CALLED_NAME.findall(head) if not name.isupper()]
            names = [name for name in names if name not in ("__attribute__", "alignas")]
            if names:
                yield names[0], head, first, self.closing_line(number)

    @staticmethod
    def continues_head(line):
        return line != "" and line[0] not in "#}" and not line.endswith(";")

    def closing_line(self, opening):
        for number in range(opening, len(self.code) + 1):
            if self.code[number - 1].startswith("}"):
                return number
        return opening


def check_long_functions(file):
    for name, _, first, last in file.functions():
        if last - first + 1 > FUNCTION_LINES_MAX and not file.is_permitted(first, last):
            yield first, f"{name} has {last - first + 1} lines, at most {FUNCTION_LINES_MAX}"


def check_function_names(file):
    for name, head, first, _ in file.functions():
        if re.search(r"\bstatic\b", head) or name.startswith("midge_") or FOREIGN_NAME.match(name):
            continue
        yield first, f"{name} is not static and does not begin with midge_"


def check_banned_calls(file):
    for number, line in enumerate(file.code, 1):
        for name in BANNED_CALL.findall(line):
            yield number, f"{name}() is banned"


def check_fences(file):
    for number, line in enumerate(file.code, 1):
        if match := FENCE.search(line):
            yield number, f"{match.group(1)} is banned: ThreadSanitizer does not see fences"


def check_parent_includes(file):
    for number, line in enumerate(file.lines, 1):
        if PARENT_INCLUDE.match(line):
            yield number, "an include path with ../ reaches into another room"


def check_struct_typedefs(file):
    for number, line in enumerate(file.code, 1):
        if STRUCT_TYPEDEF.search(line):
            yield number, "write struct, union or enum where it is used, without a typedef"


def check_line_lengths(file):
    columns_max = CODE_COLUMNS_MAX if file.kind in CODE else SCRIPT_COLUMNS_MAX
    for number, line in enumerate(file.lines, 1):
        if len(line) > columns_max:
            yield number, f"{len(line)} columns, at most {columns_max}"


def check_unfinished(file):
    for number, line in enumerate(file.lines, 1):
        if match := UNFINISHED.search(line):
            yield number, f"{match.group(1)}: do it, or leave it out and say so in docs"


def check_head(file):
    lines = [line for line in file.lines if line.strip()]
    if lines and lines[0].startswith("#!"):
        lines = lines[1:]
    opening = {".c": "/*", ".h": "/*", ".py": '"""', ".sh": "#", ".cmake": "#"}[file.kind]
    if not lines or not lines[0].startswith(opening):
        yield 1, "the file does not begin with a comment that says what it is for"


def check_tabs(file):
    for number, line in enumerate(file.lines, 1):
        if "\t" in line:
            yield number, "a tab"


def check_trailing_space(file):
    for number, line in enumerate(file.lines, 1):
        if line != line.rstrip():
            yield number, "space at the end of the line"


def check_final_newline(file):
    if file.text and (not file.text.endswith("\n") or file.text.endswith("\n\n")):
        yield len(file.lines), "the file does not end with exactly one newline"


def check_guard(file):
    directives = [line.split() for line in file.code if line.startswith("#")]
    guard = "MIDGE_" + re.sub(r"\W", "_", file.name).upper()
    opening = [["#ifndef", guard], ["#define", guard]]
    if directives[:2] != opening or directives[-1] != ["#endif"]:
        yield 1, f"the header guard is not {guard}"


def check_documented(file):
    """Each paragraph of declarations in a public header begins with a comment."""
    for number, line in enumerate(file.code, 1):
        match = DECLARATION.match(line)
        if not match or line.startswith("#"):
            continue
        first = number
        while first > 1 and file.lines[first - 2].strip():
            first -= 1
        if not file.lines[first - 1].startswith("/*"):
            yield number, f"{match.group(1)} has no comment"


def is_public_header(file):
    return file.kind == ".h" and "/include/" in f"/{file.path}"


# Rule name, which files it looks at, the check.
RULES = [
    ("function-length", lambda file: file.kind in CODE, check_long_functions),
    ("function-name", lambda file: file.kind in CODE, check_function_names),
    ("banned-call", lambda file: file.kind in CODE, check_banned_calls),
    ("fence", lambda file: file.kind in CODE, check_fences),
    ("parent-include", lambda file: file.kind in CODE, check_parent_includes),
    ("struct-typedef", lambda file: file.kind in CODE, check_struct_typedefs),
    ("line-length", lambda file: file.kind in CODE | SCRIPT, check_line_lengths),
    ("unfinished", lambda file: file.kind in CODE | SCRIPT, check_unfinished),
    ("file-head", lambda file: file.kind in CODE | SCRIPT, check_head),
    ("tab", lambda file: file.kind in TEXT, check_tabs),
    ("trailing-space", lambda file: file.kind in TEXT, check_trailing_space),
    ("final-newline", lambda file: file.kind in TEXT, check_final_newline),
    ("header-guard", lambda file: file.kind == ".h", check_guard),
    ("undocumented", is_public_header, check_documented),
]


def check_file(file):
    for rule, applies, check in RULES:
        if not applies(file):
            continue
        for line, message in check(file):
            if not file.is_permitted(line):
                yield f"{file.path}:{line}: {rule}: {message}"


def check_tree(paths):
    """Only the entries that the top level is meant to have; dotfiles belong to tools."""
    for entry in sorted({path.split("/")[0] for path in paths}):
        if entry not in TOP_LEVEL and not entry.startswith("."):
            yield f"{entry}:1: tree: not one of the entries that belong at the top level"


def list_files(root):
    """What git would commit; without git (a release archive), every file outside build directories."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        paths = [path for path in listing.split("\0") if path]
    except (OSError, subprocess.CalledProcessError):
        paths = []
        for folder, names, files in os.walk(root):
            names[:] = [name for name in names if name not in ("build", ".git", "__pycache__")]
            paths += [os.path.relpath(os.path.join(folder, file), root) for file in files]
    return sorted(path for path in set(paths) if (root / path).is_file())


def find_all(root):
    paths = list_files(root)
    findings = list(check_tree(paths))
    for path in paths:
        if (root / path).stat().st_size < 1 << 20:
            findings += check_file(SourceFile(root, path))
    return findings


def main(arguments):
    root = Path(arguments[0] if arguments else Path(__file__).resolve().parents[2])
    findings = find_all(root)
    for finding in findings:
        print(finding)
    print(f"tidy: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
