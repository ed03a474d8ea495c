/*
 * report.html as bytes of the program; cmake/embed.cmake makes the definition from the file.
 *
 * Thread: constant after init.
 */
#ifndef MIDGE_REPORT_TEMPLATE_H
#define MIDGE_REPORT_TEMPLATE_H

#include <stdint.h>

extern const char midge_report_template[];
extern const uint32_t midge_report_template_len;

#endif
