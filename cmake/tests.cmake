# midge_add_test(KIND ROOM NAME SOURCE [LIBRARIES...]) adds one C test program.
#
# KIND is unit (Criterion), model or stress (plain main), sim (plain main on the simulated ring). The
# ctest name is KIND.ROOM.NAME, the label KIND. Criterion aborts under ThreadSanitizer (Snaipe/Criterion
# issue 274), so unit tests are left out of that build; stress tests are built everywhere.
function(midge_add_test KIND ROOM NAME SOURCE)
    if(KIND STREQUAL "unit" AND MIDGE_SANITIZE STREQUAL "thread")
        return()
    endif()
    set(target test_${KIND}_${ROOM}_${NAME})
    add_executable(${target} ${SOURCE})
    target_link_libraries(${target} PRIVATE midge_options ${ARGN})
    if(KIND STREQUAL "unit")
        target_link_libraries(${target} PRIVATE PkgConfig::CRITERION)
    endif()
    add_test(NAME ${KIND}.${ROOM}.${NAME} COMMAND ${target})
    set_tests_properties(${KIND}.${ROOM}.${NAME} PROPERTIES LABELS ${KIND} TIMEOUT 300)
endfunction()

# midge_add_fuzz(NAME SOURCE [LIBRARIES...]) adds a libFuzzer target fuzz_NAME; in every build ctest
# replays tests/fuzz/corpus/NAME. Without MIDGE_FUZZ a small main reads the files instead of libFuzzer.
function(midge_add_fuzz NAME SOURCE)
    set(target fuzz_${NAME})
    add_executable(${target} ${SOURCE})
    target_link_libraries(${target} PRIVATE midge_options ${ARGN})
    if(MIDGE_FUZZ)
        target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    else()
        target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.c)
    endif()
    add_test(NAME fuzz.${NAME}.corpus COMMAND ${target} -runs=0
        ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${NAME})
    set_tests_properties(fuzz.${NAME}.corpus PROPERTIES LABELS fuzz TIMEOUT 300)
endfunction()
