# Makes a C file that holds another file as an array of bytes. Run as a script while building:
#
#   cmake -D INPUT=report.html -D OUTPUT=report_template.c -D NAME=midge_report_template
#         -D HEADER=report_template.h -P embed.cmake
#
# An array and not .incbin, which needs a second language.

file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
file(WRITE ${OUTPUT} "/* Made by cmake/embed.cmake; do not edit. */\n#include \"${HEADER}\"\n\n"
    "const char ${NAME}[] = {\n${bytes}};\nconst uint32_t ${NAME}_len = sizeof ${NAME};\n")
