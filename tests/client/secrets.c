/* Where with_secrets.py has put things. See secrets.h. */
#include "secrets.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    if (value == NULL)
        midge_rig_fail(__FILE__, __LINE__, "%s is not set: run under with_secrets.py", name);
    return value;
}

struct midge_secret midge_secret_path(const char *name)
{
    struct midge_secret secret;
    const int len =
        snprintf(secret.path, sizeof(secret.path), "%s/%s", variable("MIDGE_SECRETS"), name);

    CHECK(len > 0 && (size_t)len < sizeof(secret.path));
    return secret;
}

struct midge_secret_text midge_secret_read(const char *name)
{
    struct midge_secret_text secret;
    FILE *file = fopen(midge_secret_path(name).path, "re");
    size_t len;

    CHECK(file != NULL);
    len = fread(secret.text, 1, sizeof(secret.text), file);
    CHECK(len > 0 && len < sizeof(secret.text));
    secret.text[len] = '\0';
    (void)fclose(file);
    return secret;
}

void midge_secret_make_creds(const char *name, unsigned seconds)
{
    const char *program = variable("MIDGE_CREDENTIALS");
    const char *folder = variable("MIDGE_SECRETS");
    char text[16];
    int status = 0;
    pid_t pid;

    (void)snprintf(text, sizeof(text), "%u", seconds);
    (void)fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)execl(program, program, folder, name, text, (char *)NULL);
        _exit(127);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQUAL(status, 0);
}
