"""Import the tests of other build trees into one, so that a single ctest run covers them all.

    import_suites.py OUTPUT NAME=BUILD_DIR... [-- CTEST_ARGUMENT...]

Writes OUTPUT, a file that ctest includes (TEST_INCLUDE_FILES): every test T of BUILD_DIR becomes NAME.T
with its command, labels, time limit and environment. The CTEST_ARGUMENTs select what is listed
(`-C Long`).
"""

import json
import subprocess
import sys


def quote(text):
    """A CMake bracket argument: taken as it stands, whatever is in it."""
    fence = "="
    while f"]{fence}]" in text:
        fence += "="
    return f"[{fence}[{text}]{fence}]"


def property_text(value):
    if isinstance(value, bool):
        return "ON" if value else "OFF"
    if isinstance(value, list):
        return ";".join(str(element).replace(";", "\\;") for element in value)
    return str(value)


def list_tests(build_dir, ctest_arguments):
    command = ["ctest", "--test-dir", build_dir, "--show-only=json-v1", *ctest_arguments]
    listing = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(listing.stdout)["tests"]


def imported_lines(prefix, test):
    name = quote(f"{prefix}.{test['name']}")
    yield f"add_test({name} {' '.join(quote(word) for word in test['command'])})"
    for entry in test.get("properties", []):
        value = quote(property_text(entry["value"]))
        yield f"set_tests_properties({name} PROPERTIES {entry['name']} {value})"


def main(arguments):
    split = arguments.index("--") if "--" in arguments else len(arguments)
    output, *suites = arguments[:split]
    lines = ["# Written by tests/tools/import_suites.py."]
    for suite in suites:
        prefix, _, build_dir = suite.partition("=")
        for test in list_tests(build_dir, arguments[split + 1 :]):
            if "command" not in test:
                sys.exit(f"{build_dir}: {test['name']} has no command; is the tree built?")
            lines.extend(imported_lines(prefix, test))
    with open(output, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
