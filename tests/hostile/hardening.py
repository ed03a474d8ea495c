"""The program file itself: what makes a memory fault harder to use."""

import shutil
import subprocess

from hostile import SANITIZED, Skip, check, find_broker, note, run


def read_elf(*flags):
    if not shutil.which("readelf"):
        raise Skip("no readelf (binutils)")
    command = ["readelf", "-W", *flags, find_broker()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def case_position_independent():
    check("DYN (Position-Independent Executable file)" in read_elf("-h"), "not a PIE")


def case_relocations_are_read_only():
    check("GNU_RELRO" in read_elf("-l"), "no GNU_RELRO segment")
    dynamic = read_elf("-d")
    check("BIND_NOW" in dynamic or " NOW" in dynamic, "symbols are bound late")


def case_stack_is_guarded_and_not_executable():
    line = next(line for line in read_elf("-l").split("\n") if "GNU_STACK" in line)
    check("RW " in line and "RWE" not in line, f"the stack may be executed: {line}")
    check("__stack_chk_fail" in read_elf("-s"), "no stack protector")


def case_no_segment_is_writable_and_executable():
    loads = [line for line in read_elf("-l").split("\n") if line.strip().startswith("LOAD")]
    check(loads and not any("RWE" in line for line in loads), f"writable and executable: {loads}")


def case_fortified():
    if SANITIZED:
        raise Skip("sanitizers take the place of _FORTIFY_SOURCE")
    names = {word.split("@")[0] for word in read_elf("-s").split() if word.split("@")[0].endswith("_chk")}
    note(f"checked variants in use: {', '.join(sorted(names))}")
    check(names - {"__stack_chk"}, "no checked variant of a C library function is used")


def case_no_search_path_for_libraries():
    dynamic = read_elf("-d")
    check("RPATH" not in dynamic and "RUNPATH" not in dynamic, "libraries are looked for in extra folders")


if __name__ == "__main__":
    run(globals())
