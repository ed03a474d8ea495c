"""The man pages: mandoc has nothing to say, each function, field and constant of the client library is in one
of them, prototypes and examples compile, what functions return and options default to is what header and
library say, references lead somewhere, and flags, examples and exit statuses are those of the programs.

    test_man.py [TEST...]      with MIDGE_MAN_DIR, the folder of the built pages
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TIMEOUT_S = 60
SOURCE_DIR = Path(__file__).resolve().parents[2]
MAN_DIR = Path(os.environ.get("MIDGE_MAN_DIR") or sys.exit("fail: MIDGE_MAN_DIR is not set"))
SERVER = os.environ.get("MIDGE_SERVER") or sys.exit("fail: MIDGE_SERVER is not set")
COMMAND = os.environ.get("MIDGE_COMMAND") or sys.exit("fail: MIDGE_COMMAND is not set")
BENCH = os.environ.get("MIDGE_BENCH") or sys.exit("fail: MIDGE_BENCH is not set")
LIBRARY = Path(os.environ.get("MIDGE_LIBRARY") or sys.exit("fail: MIDGE_LIBRARY is not set"))
COMPILER = os.environ.get("CC") or "cc"
SOURCES = {path.stem: path.read_text() for path in (SOURCE_DIR / "docs" / "man").glob("*.scd")}
INCLUDES = [f"-I{SOURCE_DIR / room / 'include'}" for room in ("client", "core")]
WARNINGS = ["-std=c17", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def section(text, name):
    """The text of one section of a page."""
    found = re.search(rf"^# {name}\n(.*?)(?=^# |\Z)", text, re.DOTALL | re.MULTILINE)
    return found.group(1) if found else ""


def code_blocks(text):
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block.replace("\\\\", "\\") for block in blocks]  # as scdoc reads them


def names_of(page):
    """The functions that a page of section 3 is about."""
    names = set(re.findall(r"midge_[a-z_]+", section(SOURCES[page], "NAME")))
    return names - {page.rsplit(".", 1)[0]} | (names & DECLARED)


def read_header(room, name):
    """The text of an installed header, without comments."""
    text = (SOURCE_DIR / room / "include" / "midge" / name).read_text()
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


CLIENT_H = read_header("client", "client.h")
STATUS_H = read_header("core", "status.h")
DECLARED = set(re.findall(r"MIDGE_API[^;]*?\b(midge_\w+)\(", CLIENT_H))
DECLARED |= set(re.findall(r"^\w[\w *]*\b(midge_\w+)\(", STATUS_H, re.MULTILINE))
STATUS = re.compile(r"\b(?:MIDGE_)?((?:OK|AGAIN|FULL)\b|E_[A-Z_]+)")
FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
COMMANDS = {"pub": "midge-pub.1", "sub": "midge-sub.1", "req": "midge-req.1", "reply": "midge-reply.1",
            "rtt": "midge-rtt.1", "service": "midge-service.1", "server": "midge-server-info.1"}


def read_returns():
    """What the header says that each function returns: its name -> the text behind @return."""
    text = (SOURCE_DIR / "client" / "include" / "midge" / "client.h").read_text()
    returns = {}
    for comment, name in re.findall(r"/\*\*((?:(?!\*/).)*)\*/\n(?:(?!/\*)[^;(]|\(\()*?\b(midge_\w+)\(", text,
                                    re.DOTALL):
        comment = re.sub(r"\s+", " ", re.sub(r"\n\s*\*", " ", comment))
        returns[name] = re.split(r"@param|Thread:|Cost:", comment.partition("@return")[2])[0]
    return returns


def read_returns_of_page(page):
    """What a page says that functions return: pairs of the names before a colon and the text behind it."""
    for paragraph in section(SOURCES[page], "RETURN VALUE").split("\n\n"):
        found = re.match(r"\s*((?:\*midge_\w+\*\(\),?\s*(?:and )?)+)(?::|returns?)(.*)", paragraph, re.DOTALL)
        if found:
            yield re.findall(r"midge_\w+", found.group(1)), found.group(2)


def help_of(command):
    return subprocess.check_output([COMMAND, *command, "--help"], text=True, timeout=TIMEOUT_S)


def flags_of_help(text):
    """The flags that a help page lists, one or two a line."""
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines()
             if line.lstrip().startswith("-")]
    return set(FLAG.findall("\n".join(lines)))


def flags_of_page(text):
    return set(FLAG.findall("\n".join(re.findall(r"^\*-.*$", text, re.MULTILINE))))


LIBRARY_PAGES = sorted(page for page in SOURCES if page.endswith(".3"))


class Man(unittest.TestCase):
    def compile(self, name, text):
        """Compile C text, without a program of it."""
        done = subprocess.run([COMPILER, *WARNINGS, *INCLUDES, "-x", "c", "-fsyntax-only", "-"], input=text,
                              text=True, capture_output=True, timeout=TIMEOUT_S)
        self.assertEqual(done.returncode, 0, f"{name}:\n{done.stderr}")

    def test_every_page_is_built_and_mandoc_has_nothing_to_say(self):
        for page in SOURCES:
            self.assertTrue((MAN_DIR / page).is_file(), page)
            done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", MAN_DIR / page], text=True,
                                  capture_output=True, timeout=TIMEOUT_S)
            # scdoc 1.11 begins every section with a paragraph that is empty, which shows nowhere.
            said = [line for line in done.stdout.splitlines() if "skipping paragraph macro: PP" not in line]
            self.assertEqual((said, done.stderr), ([], ""))

    def test_each_function_has_one_page_and_each_page_only_functions(self):
        self.assertIn("midge_client_create", DECLARED)
        named = [name for page in LIBRARY_PAGES for name in names_of(page)]
        self.assertEqual(sorted(named), sorted(DECLARED))
        for name in DECLARED:
            self.assertTrue((MAN_DIR / f"{name}.3").exists(), f"{name}.3")

    def test_each_field_and_constant_is_in_a_page(self):
        library = "\n".join(SOURCES[page] for page in LIBRARY_PAGES)
        names = set(re.findall(r"\bMIDGE_[A-Z_]+(?=[ =,])", CLIENT_H)) - {"MIDGE_MUST_CHECK", "MIDGE_API"}
        names |= {f"MIDGE_{name}" for name in re.findall(r"\bX\((\w+), -?\d", STATUS_H)}
        for body in re.findall(r"^struct midge_\w+ \{\n(.*?)^\};", CLIENT_H, re.DOTALL | re.MULTILINE):
            names |= set(re.findall(r"\b(\w+);", body))
        self.assertIn("MIDGE_E_NO_RESPONDERS", names)
        self.assertIn("reconnect_wait_ms", names)
        missing = {name for name in names if not re.search(rf"\b_?{name}_?\b", library)}
        self.assertEqual(missing, set())

    def test_prototypes_are_those_of_the_header(self):
        for page in LIBRARY_PAGES:
            synopsis = "\n".join(code_blocks(section(SOURCES[page], "SYNOPSIS")))
            # The compiler takes a second declaration only if it says the same; macros are no functions.
            self.compile(page, synopsis)
            shown = set(re.findall(r"\b(midge_\w+)\(", synopsis))
            for name in names_of(page):
                self.assertIn(name, shown, f"{page} does not show it")

    def test_examples_compile(self):
        for page in LIBRARY_PAGES:
            for example in code_blocks(section(SOURCES[page], "EXAMPLES")):
                if "#include" in example:
                    self.compile(page, example)

    def test_references_lead_to_pages(self):
        for page, text in SOURCES.items():
            for name, number in re.findall(r"\*(midge[\w-]*)\*\((\d)\)", text):
                self.assertTrue((MAN_DIR / f"{name}.{number}").exists(), f"{page}: {name}({number})")

    def test_functions_return_what_the_header_says(self):
        returns = read_returns()
        checked = set()
        for page in LIBRARY_PAGES:
            for names, text in read_returns_of_page(page):
                for name in names:
                    checked.add(name)
                    if not re.search(r"\b(as|same)\b", returns[name] + text):
                        self.assertEqual(set(STATUS.findall(text)), set(STATUS.findall(returns[name])), name)
        for name in ("client_create", "client_connect", "loop_create", "sub_next", "client_flush",
                     "headers_add", "service_create"):
            self.assertIn(f"midge_{name}", checked)

    def test_defaults_are_those_of_the_library(self):
        body, = re.findall(r"^struct midge_options \{\n(.*?)^\};", CLIENT_H, re.DOTALL | re.MULTILINE)
        fields = re.findall(r"uint(?:32|64)_t (\w+);", body)
        fields.remove("size")
        lines = [f'printf("{field} %llu\\n", (unsigned long long)options.{field});' for field in fields]
        program = ("#include <stdio.h>\n#include <midge/client.h>\n"
                   "int main(void) {struct midge_options options;"
                   f"midge_options_init(&options);{''.join(lines)}return 0;}}\n")
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "defaults"
            subprocess.run([COMPILER, *WARNINGS, *INCLUDES, "-x", "c", "-", "-o", built,
                            f"-L{LIBRARY.parent}", "-lmidge"], input=program, text=True, check=True,
                           timeout=TIMEOUT_S)
            environment = {**os.environ, "LD_LIBRARY_PATH": str(LIBRARY.parent)}
            said = subprocess.check_output([built], env=environment, text=True, timeout=TIMEOUT_S)
        comments = (SOURCE_DIR / "client" / "include" / "midge" / "client.h").read_text()
        entries = re.split(r"\n\n", section(SOURCES["midge_client.3"], "OPTIONS"))
        for field, number in (line.split() for line in said.splitlines()):
            mebibytes = int(number) // 2**20
            shown = f"{mebibytes} MiB" if mebibytes and int(number) % 2**20 == 0 else number
            comment, = re.findall(rf"\b{field};\s*/\*(.*?)\*/", comments, re.DOTALL)
            self.assertRegex(re.sub(r"\n\s*", " ", comment), rf"\b{shown}\b", f"client.h: {field}")
            entry = next(entry for entry in entries if re.search(rf"^_(.*\b_)?{field}_", entry, re.MULTILINE))
            self.assertRegex(entry, rf"\b{shown}\b", f"midge_client(3): {field}")

    def test_the_pages_of_the_broker_and_its_help_have_the_same_flags(self):
        page = subprocess.check_output([SERVER, "--help"], text=True, timeout=TIMEOUT_S)
        self.assertEqual(flags_of_page(section(SOURCES["midge-server.8"], "OPTIONS")), flags_of_help(page))

    def test_the_page_of_the_benchmark_and_its_help_have_the_same_flags(self):
        flags = flags_of_page(section(SOURCES["midge-bench.1"], "OPTIONS"))
        # Its help has several a line.
        page = subprocess.check_output([BENCH, "--help"], text=True, timeout=TIMEOUT_S)
        self.assertEqual(flags, set(FLAG.findall(page)))
        for flag in flags:
            done = subprocess.run([BENCH, "report", flag], text=True, capture_output=True, timeout=TIMEOUT_S)
            self.assertNotIn("unrecognized", done.stderr)

    def test_the_pages_of_the_command_and_its_help_have_the_same_flags(self):
        connection = flags_of_page(section(SOURCES["midge.1"], "CONNECTION"))
        for command, page in COMMANDS.items():
            own, shared = help_of([command]).split("\nConnection:\n")
            self.assertEqual(flags_of_page(section(SOURCES[page], "OPTIONS")), flags_of_help(own), page)
            self.assertEqual(connection | {"-h", "--help"}, flags_of_help(shared), page)

    def test_the_pages_of_the_command_and_its_help_have_the_same_examples(self):
        for command, page in COMMANDS.items():
            shown = [line.strip() for line in help_of([command]).splitlines()
                     if re.match(r"  (\w+ \| )?midge ", line)]
            blocks = code_blocks(section(SOURCES[page], "EXAMPLES"))
            self.assertTrue(shown, page)
            self.assertEqual("\n".join(shown) + "\n", "".join(blocks), page)
        first = code_blocks(section(SOURCES["midge.1"], "DESCRIPTION"))
        self.assertEqual([line.strip() for line in help_of([]).splitlines()][-2:], first[0].splitlines())

    def test_what_the_environment_says_is_in_the_page(self):
        listed = set(re.findall(r"^\*([A-Z_]+)\*|, \*([A-Z_]+)\*",
                                section(SOURCES["midge.1"], "ENVIRONMENT"), re.MULTILINE))
        listed = {name for names in listed for name in names if name}
        read = set()
        for source in (SOURCE_DIR / "client" / "cli").glob("*.c"):
            read |= set(re.findall(r'getenv\("(\w+)"\)', source.read_text()))
        read |= set(re.findall(r"\(\$(\w+)\)", help_of(["pub"])))
        self.assertEqual(listed - {"NATS_URL"}, read - {"TERM", "NATS_URL"})

    def test_exit_statuses_are_those_of_the_command(self):
        header = (SOURCE_DIR / "client" / "cli" / "cli.h").read_text()
        numbers = re.findall(r"MIDGE_CLI_EXIT_\w+ = (\d+),", header)
        self.assertEqual(re.findall(r"^\*(\d+)\*$", section(SOURCES["midge.1"], "EXIT STATUS"), re.MULTILINE),
                         numbers)


if __name__ == "__main__":
    unittest.main()
