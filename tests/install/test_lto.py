"""A build with link-time optimisation: its static library holds machine code, which another compiler links.

    test_lto.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS_DIR = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS_DIR / "interop"))
import harness  # noqa: E402

TIMEOUT_S = 200


def run(*command, **options):
    subprocess.run(list(map(str, command)), check=True, timeout=TIMEOUT_S, **options)


def main():
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build"
        # As the preset release, but not optimised: that would only take time.
        run("cmake", "-S", TESTS_DIR.parent, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
            "-DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON", "-DBUILD_TESTING=OFF", stdout=subprocess.DEVNULL)
        run("cmake", "--build", build, "--target", "midge_static", "midge_shared", "--parallel", "2",
            stdout=subprocess.DEVNULL)
        libraries = build / "client" / "dist"
        includes = [f"-I{TESTS_DIR.parent / room / 'include'}" for room in ("client", "core")]
        source = TESTS_DIR / "install" / "consumer" / "main.c"
        run("clang", *includes, source, libraries / "libmidge.a", "-luring", "-lssl", "-lcrypto", "-pthread",
            "-o", libraries / "static")
        run("clang", *includes, source, f"-L{libraries}", "-lmidge", "-o", libraries / "shared")
        with harness.Server(harness.find_server("midge")) as server:
            for program in ("static", "shared"):
                environment = {**os.environ, "NATS_URL": server.url, "LD_LIBRARY_PATH": str(libraries)}
                said = subprocess.check_output([libraries / program], env=environment, timeout=TIMEOUT_S)
                if said != b"hello\n":
                    sys.exit(f"fail: {program} said {said}")
    print("ok")


if __name__ == "__main__":
    main()
