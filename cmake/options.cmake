# Compiler options that every target of the project shares, as the interface target midge_options.

set(MIDGE_SANITIZE "none" CACHE STRING "none, address (with undefined behaviour), thread")
set_property(CACHE MIDGE_SANITIZE PROPERTY STRINGS none address thread)
option(MIDGE_WERROR "Treat warnings as errors" OFF)
option(MIDGE_FUZZ "Build the libFuzzer targets as fuzzers (clang); else they only replay their corpus" OFF)

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# Of a shared library only what its header marks is seen; so no other name of ours can meet one of its user's.
set(CMAKE_C_VISIBILITY_PRESET hidden)
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

include(CheckPIESupported)
check_pie_supported(LANGUAGES C) # programs are linked with -pie, libraries are not

add_library(midge_options INTERFACE)
target_compile_definitions(midge_options INTERFACE _GNU_SOURCE MIDGE_VERSION="${PROJECT_VERSION}")
target_compile_options(midge_options INTERFACE
    -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual -Wundef
    -Wvla -Wswitch-enum -fno-strict-aliasing -fwrapv -fstack-protector-strong)
target_link_options(midge_options INTERFACE -Wl,-z,relro,-z,now)
if(MIDGE_WERROR)
    target_compile_options(midge_options INTERFACE -Werror)
endif()
if(MIDGE_SANITIZE STREQUAL "address")
    target_compile_options(midge_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
        -fno-omit-frame-pointer)
    target_link_options(midge_options INTERFACE -fsanitize=address,undefined)
elseif(MIDGE_SANITIZE STREQUAL "thread")
    target_compile_options(midge_options INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
    target_link_options(midge_options INTERFACE -fsanitize=thread)
else()
    target_compile_definitions(midge_options INTERFACE $<$<NOT:$<CONFIG:Debug>>:_FORTIFY_SOURCE=2>)
endif()
if(MIDGE_FUZZ)
    target_compile_options(midge_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
