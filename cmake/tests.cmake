# How tests are registered with ctest.
#
# Three build trees hold tests: `test` (plain), `asan` and `tsan` (MIDGE_SANITIZE). Each tree registers
# what makes sense in it; `./dev test` builds all three and imports the tests of the other two into the
# plain tree as asan.<name> and tsan.<name> (tests/tools/import_suites.py), so that one ctest run and one
# summary cover everything. `ctest --preset asan` alone works too.
#
# Kinds are ctest labels: unit, model, sim, stress, fuzz, wire, hostile, interop, client, tools, bench.
# Long tests carry CONFIGURATIONS Long: `./dev test --long`, or `ctest -C Long`, runs them beside the others.
# A test that cannot run here prints `skipped: <reason>` as its last line and exits 77. With
# MIDGE_ALLOW_SKIP=OFF (CI) that is a failure.

option(MIDGE_ALLOW_SKIP "A test may skip itself with exit status 77; OFF makes that a failure" ON)

# Written by import_suites.py; read by ctest, not by CMake. An empty file as long as nobody has run it.
set(MIDGE_IMPORTED_SUITES ${CMAKE_BINARY_DIR}/imported_suites.cmake)
if(NOT EXISTS ${MIDGE_IMPORTED_SUITES})
    file(TOUCH ${MIDGE_IMPORTED_SUITES})
endif()
set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY TEST_INCLUDE_FILES ${MIDGE_IMPORTED_SUITES})

# What every test has: label, time limit, meaning of exit status 77, sanitizer options.
function(midge_set_test_defaults NAME KIND)
    set_tests_properties(${NAME} PROPERTIES LABELS ${KIND} TIMEOUT 300)
    if(MIDGE_ALLOW_SKIP)
        set_tests_properties(${NAME} PROPERTIES SKIP_RETURN_CODE 77)
    endif()
    set(environment
        MIDGE_SERVER=${CMAKE_BINARY_DIR}/midge-server
        MIDGE_SANITIZE=${MIDGE_SANITIZE}
        UBSAN_OPTIONS=print_stacktrace=1
        ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
        TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1)
    set_property(TEST ${NAME} PROPERTY ENVIRONMENT ${environment})
endfunction()

# midge_add_test(KIND ROOM NAME SOURCE [LIBRARIES...]) adds one C test program.
#
# KIND is unit (Criterion), model or stress (plain main), sim (plain main on the simulated ring). The
# ctest name is KIND.ROOM.NAME, the label KIND. The tsan tree holds stress tests only: Criterion aborts
# under ThreadSanitizer (Snaipe/Criterion issue 274), and the other kinds have one thread.
function(midge_add_test KIND ROOM NAME SOURCE)
    if(MIDGE_SANITIZE STREQUAL "thread" AND NOT KIND STREQUAL "stress")
        return()
    endif()
    set(target test_${KIND}_${ROOM}_${NAME})
    set(arguments)
    add_executable(${target} ${SOURCE})
    target_link_libraries(${target} PRIVATE midge_options ${ARGN})
    if(KIND STREQUAL "unit")
        target_link_libraries(${target} PRIVATE PkgConfig::CRITERION)
        # One job: Criterion 2.4 leaks the state of its other workers, which LeakSanitizer reports.
        set(arguments --jobs=1)
    endif()
    add_test(NAME ${KIND}.${ROOM}.${NAME} COMMAND ${target} ${arguments})
    midge_set_test_defaults(${KIND}.${ROOM}.${NAME} ${KIND})
endfunction()

# midge_add_command(KIND NAME [PLAIN] [LONG] [SERIAL] [TIMEOUT SECONDS] [NEEDS PEER...] COMMAND ...) adds
# a test that is a command, most often a script against the broker. The ctest name is KIND.NAME.
#
# PLAIN   only in the tree without a sanitizer: the command runs no code of ours, or compares speed
# LONG    only with ctest -C Long
# SERIAL  nothing else runs beside it
# NEEDS   peer programs, by the names that tests/tools/with_peers.sh knows; without one the test skips
# The environment holds MIDGE_SERVER (the tree's broker) and, if needed, NATS_SERVER, NATS_CLI and
# MIDGE_PYTHON (an interpreter that has the packages of tests/interop/requirements.txt).
function(midge_add_command KIND NAME)
    cmake_parse_arguments(PARSE_ARGV 2 arg "PLAIN;LONG;SERIAL" "TIMEOUT" "NEEDS;COMMAND")
    if(arg_PLAIN AND NOT MIDGE_SANITIZE STREQUAL "none")
        return()
    endif()
    set(configurations)
    if(arg_LONG)
        set(configurations CONFIGURATIONS Long)
    endif()
    set(prefix)
    if(arg_NEEDS)
        set(prefix ${CMAKE_SOURCE_DIR}/tests/tools/with_peers.sh ${arg_NEEDS} --)
    endif()
    add_test(NAME ${KIND}.${NAME} COMMAND ${prefix} ${arg_COMMAND} ${configurations}
        WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
    midge_set_test_defaults(${KIND}.${NAME} ${KIND})
    if(arg_TIMEOUT)
        set_tests_properties(${KIND}.${NAME} PROPERTIES TIMEOUT ${arg_TIMEOUT})
    endif()
    if(arg_SERIAL)
        set_tests_properties(${KIND}.${NAME} PROPERTIES RUN_SERIAL ON)
    endif()
endfunction()

# midge_add_fuzz(NAME SOURCE [LIBRARIES...]) adds a libFuzzer target fuzz_NAME; in every build but tsan
# ctest replays tests/fuzz/corpus/NAME. Without MIDGE_FUZZ a small main reads the files instead of
# libFuzzer. The target `fuzzers` builds them all.
function(midge_add_fuzz NAME SOURCE)
    if(MIDGE_SANITIZE STREQUAL "thread")
        return()
    endif()
    set(target fuzz_${NAME})
    add_executable(${target} ${SOURCE})
    target_link_libraries(${target} PRIVATE midge_options ${ARGN})
    if(MIDGE_FUZZ)
        target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    else()
        target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.c)
    endif()
    if(NOT TARGET fuzzers)
        add_custom_target(fuzzers)
    endif()
    add_dependencies(fuzzers ${target})
    add_test(NAME fuzz.${NAME}.corpus COMMAND ${target} -runs=0
        ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${NAME})
    midge_set_test_defaults(fuzz.${NAME}.corpus fuzz)
endfunction()
