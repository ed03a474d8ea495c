/*
 * `midge-server -t` without the rest of the server: reads argv and the file, and exits with 0 if
 * they are valid. For test_config.py.
 */
#include <stdio.h>

#include "config.h"

int main(int argc, char **argv)
{
    struct midge_config config;
    enum midge_status status;

    midge_config_init(&config);
    status = midge_config_load(&config, argc, argv, stdout, stderr);
    midge_config_deinit(&config);
    return status == MIDGE_OK ? 0 : 1;
}
