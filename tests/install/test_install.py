"""The installed tree as others use it: what is in it, what its libraries show, and programs outside of our
tree that are built with pkg-config and with CMake, in C and C++, with gcc and clang, and run.

    test_install.py [TEST...]      with MIDGE_BINARY_DIR, a finished build
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS_DIR = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS_DIR / "interop"))
import harness  # noqa: E402

TIMEOUT_S = 120
BINARY_DIR = os.environ.get("MIDGE_BINARY_DIR") or sys.exit("fail: MIDGE_BINARY_DIR is not set")
CONSUMER_DIR = TESTS_DIR / "install" / "consumer"
SONAME = "libmidge.so.0.1"
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
COMPILERS = {"main.c": ("gcc", "clang"), "main.cpp": ("g++", "clang++")}
DECLARATION = re.compile(r"^(?!static|typedef)[A-Za-z][\w\s*()]*?\b(midge_\w+)\(", re.MULTILINE)


def run(*command, **options):
    """Run a command that must succeed. Returns its standard output."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def read_declared(header):
    """What a header declares and does not define: the names with MIDGE_API, and those without."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"MIDGE_MUST_CHECK|extern \"C\" \{", "", text)
    shown, hidden = set(), set()
    for line in text.split(";"):
        (shown if "MIDGE_API" in line else hidden).update(DECLARATION.findall(line.strip()))
    return shown, hidden


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.work = Path(folder.name)
        run("cmake", "--install", BINARY_DIR, "--prefix", cls.work / "installed")
        # Whoever packages moves the tree: nothing in it may know where it was.
        cls.prefix = cls.work / "moved"
        (cls.work / "installed").rename(cls.prefix)
        cls.lib = next(cls.prefix.glob("**/libmidge.a")).parent
        cls.environment = {**os.environ, "PKG_CONFIG_PATH": str(cls.lib / "pkgconfig")}
        cls.server = harness.Server(harness.find_server("midge"))
        cls.server.start()
        cls.addClassCleanup(cls.server.kill)

    def pkg_config(self, *arguments):
        return run("pkg-config", *arguments, "midge", env=self.environment).split()

    def expect_hello(self, program, **environment):
        said = run(program, env={**os.environ, "NATS_URL": self.server.url, **environment})
        self.assertEqual(said, "hello\n")

    def read_dynamic(self, path, tag):
        return re.findall(rf"\({tag}\).*\[(.*)\]", run("readelf", "-d", path))

    # --- what is there

    def test_files(self):
        found = {str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*") if not path.is_dir()}
        lib = self.lib.relative_to(self.prefix)
        version = self.pkg_config("--modversion")[0]
        wanted = {
            "bin/midge", "bin/midge-bench", "bin/midge-server",
            "include/midge/client.h", "include/midge/slice.h", "include/midge/status.h",
            f"{lib}/libmidge.a", f"{lib}/libmidge.so", f"{lib}/{SONAME}", f"{lib}/libmidge.so.{version}",
            f"{lib}/pkgconfig/midge.pc",
            f"{lib}/cmake/midge/midgeConfig.cmake", f"{lib}/cmake/midge/midgeConfigVersion.cmake",
            f"{lib}/cmake/midge/midgeTargets.cmake", f"{lib}/cmake/midge/midgeStaticTargets.cmake",
        }  # fmt: skip
        generated = re.compile(r"share/man/man\d/midge[\w-]*\.\d|.*/midge(Static)?Targets-\w+\.cmake")
        self.assertEqual({name for name in found if not generated.fullmatch(name)}, wanted)

    def test_no_file_knows_where_it_was_built(self):
        for path in self.prefix.rglob("*"):
            if path.suffix in (".cmake", ".pc", ".h"):
                text = path.read_text()
                for place in (BINARY_DIR, str(self.work)):
                    self.assertNotIn(place, text, path)

    def test_packagers_get_the_same_tree_elsewhere(self):
        root = self.work / "root"
        environment = {**os.environ, "DESTDIR": str(root)}
        run("cmake", "--install", BINARY_DIR, "--prefix", "/opt/midge", env=environment)
        trees = [{path.relative_to(top): path.is_symlink() for path in top.rglob("*") if path.is_file()}
                 for top in (root / "opt" / "midge", self.prefix)]
        self.assertEqual(*trees)
        self.assertEqual([path.name for path in root.iterdir()], ["opt"])

    def test_programs_run(self):
        self.assertRegex(run(self.prefix / "bin" / "midge", "--version"), r"^midge v\d")
        self.assertRegex(run(self.prefix / "bin" / "midge-server", "--version"), r"midge-server: v\d")

    # --- what the libraries show

    def test_the_shared_library_exports_what_the_headers_declare(self):
        declared = set()
        for header in (self.prefix / "include" / "midge").iterdir():
            shown, hidden = read_declared(header)
            self.assertEqual(hidden, set(), f"{header.name} declares what the library does not show")
            declared |= shown
        self.assertIn("midge_client_create", declared)
        self.assertIn("midge_status_name", declared)
        lines = run("nm", "--dynamic", "--defined-only", self.lib / "libmidge.so").splitlines()
        self.assertEqual({line.split()[-1] for line in lines}, declared)

    def test_the_shared_library_has_its_name_and_needs_little(self):
        library = self.lib / "libmidge.so"
        self.assertEqual(self.read_dynamic(library, "SONAME"), [SONAME])
        needed = {re.sub(r"\.so.*", "", name) for name in self.read_dynamic(library, "NEEDED")}
        self.assertLessEqual(needed, {"liburing", "libssl", "libcrypto", "libc", "ld-linux-x86-64",
                                      "ld-linux-aarch64"})

    def test_each_symbol_of_the_static_library_has_our_prefix(self):
        lines = run("nm", "--defined-only", "--extern-only", self.lib / "libmidge.a").splitlines()
        symbols = {line.split()[-1] for line in lines if re.match(r"^[0-9a-f]+ \w ", line)}
        self.assertIn("midge_client_create", symbols)
        self.assertEqual({symbol for symbol in symbols if not symbol.startswith("midge_")}, set())

    # --- who uses it

    def test_the_header_is_c_and_cpp_of_all_years(self):
        cflags = self.pkg_config("--cflags")
        source = self.work / "only.c"
        source.write_text("#include <midge/client.h>\n")
        for compiler, language, standards in (
            ("gcc", "c", ("c99", "c11", "c17")), ("clang", "c", ("c99", "c17")),
            ("g++", "c++", ("c++11", "c++20")), ("clang++", "c++", ("c++11", "c++20")),
        ):  # fmt: skip
            for standard in standards:
                run(compiler, "-x", language, f"-std={standard}", *WARNINGS, "-Wconversion", "-Wshadow",
                    *cflags, "-fsyntax-only", source)

    def test_pkg_config_shared(self):
        for source, compilers in COMPILERS.items():
            for compiler in compilers:
                program = self.work / f"shared_{compiler}"
                run(compiler, *WARNINGS, CONSUMER_DIR / source, *self.pkg_config("--cflags", "--libs"),
                    "-o", program)
                self.assertIn(SONAME, self.read_dynamic(program, "NEEDED"))
                self.expect_hello(program, LD_LIBRARY_PATH=str(self.lib))

    def test_pkg_config_static(self):
        for source, compilers in COMPILERS.items():
            for compiler in compilers:
                program = self.work / f"static_{compiler}"
                run(compiler, *WARNINGS, CONSUMER_DIR / source, "-static",
                    *self.pkg_config("--static", "--cflags", "--libs"), "-o", program)
                self.assertEqual(self.read_dynamic(program, "NEEDED"), [])
                self.expect_hello(program)

    def test_find_package(self):
        for c, cpp in (("gcc", "g++"), ("clang", "clang++")):
            build = self.work / f"build_{c}"
            run("cmake", "-S", CONSUMER_DIR, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
                f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cpp}")
            run("cmake", "--build", build)
            for program in ("c_midge", "cpp_midge", "c_midge_static", "cpp_midge_static"):
                is_shared = SONAME in self.read_dynamic(build / program, "NEEDED")
                self.assertEqual(is_shared, not program.endswith("static"), program)
                self.expect_hello(build / program)

    def test_find_package_refuses_what_it_is_not(self):
        source = self.work / "refused"
        source.mkdir()
        wanted = {"0.1": True, "0.1.0 EXACT": True, "0.1 COMPONENTS shared": True, "0.1.99": False,
                  "0.2": False, "1": False, "0.1 COMPONENTS nonsense": False}  # fmt: skip
        lines = [f"unset(midge_DIR CACHE)\nfind_package(midge {each} QUIET)\n"
                 f'file(APPEND ${{CMAKE_BINARY_DIR}}/found "{each}=${{midge_FOUND}}\\n")' for each in wanted]
        (source / "CMakeLists.txt").write_text(
            "\n".join(["cmake_minimum_required(VERSION 3.20)", "project(refused C)", *lines]))
        build = self.work / "build_refused"
        run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        said = dict(line.split("=") for line in (build / "found").read_text().splitlines())
        self.assertEqual({each: found in ("1", "TRUE") for each, found in said.items()}, wanted)

    def test_the_program_of_the_readme(self):
        section = (TESTS_DIR.parent / "README.md").read_text().split("\n## In C\n")[1].split("\n## ")[0]
        program, = re.findall(r"```c\n(.*?)```", section, re.DOTALL)
        compile_line, = re.findall(r"^cc .*$", section, re.MULTILINE)
        source, = re.findall(r"\w+\.c\b", compile_line)
        folder = self.work / "readme"
        folder.mkdir()
        (folder / source).write_text(program)
        run("sh", "-c", f"{compile_line} {' '.join(WARNINGS)}", cwd=folder, env=self.environment)
        environment = {**os.environ, "NATS_URL": self.server.url, "LD_LIBRARY_PATH": str(self.lib)}
        reply = subprocess.Popen([self.prefix / "bin" / "midge", "reply", "greet.*", "--echo"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        self.addCleanup(reply.wait)
        self.addCleanup(reply.kill)
        wanted = re.search(r"# prints (\w+)", section).group(1)
        said = ""
        while said != f"{wanted}\n":  # until the responder is there; bounded by the time limit of the test
            said = subprocess.run([folder / Path(source).stem], env=environment, text=True, timeout=TIMEOUT_S,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


if __name__ == "__main__":
    if not shutil.which("readelf"):
        harness.skip("no readelf")
    unittest.main()
