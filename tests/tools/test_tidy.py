"""Each rule of tidy.py fires on a sample that breaks it, on that line, and on nothing else.

Method: a small tree with one clean file of each kind is written to a temporary directory; each case
replaces or adds one file. A sample that breaks one rule must give exactly the findings named.
"""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tidy

CLEAN_C = """/* A clean file. */
#include "midge/a.h"

static int helper(void)
{
    return 1;
}

int midge_a_get(void)
{
    return helper();
}
"""

CLEAN_H = """/* A clean header. */
#ifndef MIDGE_A_H
#define MIDGE_A_H

/** One. */
int midge_a_get(void);
int midge_a_peek(void);

#endif
"""

CLEAN_PY = '"""A clean script."""\n'
CLEAN_SH = "#!/bin/sh\n# A clean script.\ntrue\n"

LONG_BODY = "    (void)0;\n" * 68


def c_with(text):
    return CLEAN_C + "\n" + text


class Tidy(unittest.TestCase):
    def findings(self, files):
        """`path:line: rule` of each finding in a tree of the clean files and `files`."""
        tree = {
            "core/src/a.c": CLEAN_C,
            "core/include/midge/a.h": CLEAN_H,
            "tests/a.py": CLEAN_PY,
            "dev": CLEAN_SH,
            **files,
        }
        with tempfile.TemporaryDirectory() as folder:
            for path, text in tree.items():
                full_path = Path(folder) / path
                full_path.parent.mkdir(parents=True, exist_ok=True)
                full_path.write_text(text, encoding="utf-8")
            return [":".join(finding.split(":")[:3]) for finding in tidy.find_all(Path(folder))]

    def expect_c(self, text, *rules):
        """Text that follows the clean C file; rules are (line after it, rule)."""
        offset = CLEAN_C.count("\n") + 1
        expected = [f"core/src/a.c:{offset + line}: {rule}" for line, rule in rules]
        self.assertEqual(self.findings({"core/src/a.c": c_with(text)}), expected)

    def expect_h(self, text, *rules):
        expected = [f"core/include/midge/a.h:{line}: {rule}" for line, rule in rules]
        self.assertEqual(self.findings({"core/include/midge/a.h": text}), expected)

    def test_a_clean_tree_has_no_findings(self):
        self.assertEqual(self.findings({}), [])

    def test_a_function_of_71_lines_is_too_long(self):
        self.expect_c(f"static void f(void)\n{{\n{LONG_BODY}}}\n", (1, "function-length"))

    def test_a_function_of_70_lines_is_not_too_long(self):
        body = LONG_BODY.removesuffix("    (void)0;\n")
        self.expect_c(f"static void f(void)\n{{\n{body}}}\n")

    def test_a_reason_inside_permits_a_long_function(self):
        self.expect_c(f"static void f(void)\n{{\n    /* style: one table */\n{LONG_BODY}}}\n")

    def test_a_function_that_is_not_static_has_the_prefix(self):
        self.expect_c("int get(void)\n{\n    return 1;\n}\n", (1, "function-name"))

    def test_the_prefix_is_found_over_several_lines(self):
        head = "__attribute__((cold)) int\nget(int a,\n    int b)\n"
        self.expect_c(head + "{\n    return 1;\n}\n", (1, "function-name"))

    def test_names_that_others_chose_need_no_prefix(self):
        self.expect_c("int main(void)\n{\n    return 1;\n}\n\nTest(a, b)\n{\n    return;\n}\n")

    def test_each_banned_call_is_found(self):
        for name in ("strcpy", "strcat", "sprintf", "strtok", "atoi", "alloca", "rand", "gets", "assert"):
            self.expect_c(f"static int f(int a)\n{{\n    {name}(a);\n}}\n", (3, "banned-call"))

    def test_a_name_that_only_ends_like_a_banned_call_is_allowed(self):
        self.expect_c("static int f(int a)\n{\n    snprintf(a);\n    cr_assert(a);\n    x.rand(a);\n}\n")

    def test_a_banned_call_in_a_comment_or_string_is_no_call(self):
        self.expect_c('/* not strcpy(a) */\nstatic const char *f = "rand(1)"; // gets()\n')

    def test_fences_are_banned(self):
        self.expect_c("static void f(void)\n{\n    atomic_thread_fence(1);\n}\n", (3, "fence"))

    def test_includes_do_not_leave_their_room(self):
        self.expect_c('#include "../b.h"\n', (1, "parent-include"))

    def test_structs_have_no_typedef(self):
        self.expect_c("typedef struct a a_t;\n", (1, "struct-typedef"))

    def test_function_pointer_typedefs_are_allowed(self):
        self.expect_c("typedef void (*a_cb)(void *user);\n")

    def test_c_lines_have_at_most_100_columns(self):
        self.expect_c(f"/* {'x' * 94} */\n")
        self.expect_c(f"/* {'x' * 95} */\n", (1, "line-length"))

    def test_unfinished_work_is_not_committed(self):
        self.expect_c("/* TO" + "DO: later */\n", (1, "unfinished"))
        self.expect_c("/* FIX" + "ME: later */\n", (1, "unfinished"))

    def test_a_file_begins_with_a_comment(self):
        for path, text in (("core/src/b.c", "int x;\n"), ("tests/b.py", "x = 1\n"), ("tests/b.sh", "true\n")):
            self.assertEqual(self.findings({path: text}), [f"{path}:1: file-head"])

    def test_tabs_are_not_used(self):
        self.expect_c("static int\tx;\n", (1, "tab"))

    def test_lines_do_not_end_in_space(self):
        self.expect_c("static int x; \n", (1, "trailing-space"))

    def test_a_file_ends_with_one_newline(self):
        for text in ("static int x;", "static int x;\n\n"):
            found = self.findings({"core/src/a.c": c_with(text)})
            self.assertEqual([finding.split(": ")[1] for finding in found], ["final-newline"])

    def test_a_header_has_the_guard_of_its_name(self):
        self.expect_h(CLEAN_H.replace("MIDGE_A_H", "MIDGE_B_H"), (1, "header-guard"))
        without = "\n".join(line for line in CLEAN_H.split("\n") if not line.startswith("#"))
        self.expect_h(without.rstrip() + "\n", (1, "header-guard"))

    def test_public_declarations_are_documented(self):
        self.expect_h(CLEAN_H.replace("#endif", "int midge_a_put(void);\n\n#endif"), (9, "undocumented"))

    def test_private_headers_may_be_brief(self):
        text = CLEAN_H.replace("/** One. */\n", "")
        self.assertEqual(self.findings({"core/src/a.h": text}), [])

    def test_the_top_level_has_only_what_belongs_there(self):
        self.assertEqual(self.findings({"notes.md": "x\n"}), ["notes.md:1: tree"])
        self.assertEqual(self.findings({".editorconfig": "x\n"}), [])

    def test_a_reason_on_the_line_or_above_permits_an_exception(self):
        self.expect_c("static int x = rand(); /* style: a sample */\n")
        self.expect_c("/* style: a sample,\n * at length */\nstatic int x = rand();\n")

    def test_a_reason_elsewhere_permits_nothing(self):
        self.expect_c("/* style: a sample */\nstatic int y;\nstatic int x = rand();\n", (3, "banned-call"))

    def test_every_rule_has_a_sample_that_breaks_it(self):
        source = Path(__file__).read_text(encoding="utf-8")
        for rule, _, _ in tidy.RULES:
            self.assertIn(rule, source)


if __name__ == "__main__":
    unittest.main()
