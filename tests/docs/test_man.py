"""The man pages: mandoc has nothing to say, each function, field and constant of the client library is in one
of them, prototypes and examples compile, references lead somewhere, and no flag of the broker is missing.

    test_man.py [TEST...]      with MIDGE_MAN_DIR, the folder of the built pages
"""

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

TIMEOUT_S = 60
SOURCE_DIR = Path(__file__).resolve().parents[2]
MAN_DIR = Path(os.environ.get("MIDGE_MAN_DIR") or sys.exit("fail: MIDGE_MAN_DIR is not set"))
SERVER = os.environ.get("MIDGE_SERVER") or sys.exit("fail: MIDGE_SERVER is not set")
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

    def test_the_pages_of_the_broker_and_its_help_have_the_same_flags(self):
        flag = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
        page = subprocess.check_output([SERVER, "--help"], text=True, timeout=TIMEOUT_S)
        lines = [re.split(r"\s{2,}", line.strip())[0] for line in page.splitlines()
                 if line.lstrip().startswith("-")]
        shown = re.findall(r"^\*-.*$", section(SOURCES["midge-server.8"], "OPTIONS"), re.MULTILINE)
        self.assertEqual(set(flag.findall("\n".join(shown))), set(flag.findall("\n".join(lines))))


if __name__ == "__main__":
    unittest.main()
