/* The four forms of an endpoint, and what is none. Method: text, expected; one behaviour per test.
 */
#include "endpoint.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

static void expect_tcp(const char *text, const char *host, uint16_t port)
{
    struct midge_endpoint endpoint;
    struct sockaddr_in address;
    char found[INET_ADDRSTRLEN] = "";

    cr_assert_eq(midge_endpoint_parse(text, &endpoint), MIDGE_OK, "%s", text);
    cr_assert_not(endpoint.is_unix);
    memcpy(&address, &endpoint.address, sizeof address);
    cr_expect_eq(ntohs(address.sin_port), port);
    cr_expect_str_eq(inet_ntop(AF_INET, &address.sin_addr, found, sizeof found), host);
}

static void expect_unix(const char *text, const char *path)
{
    struct midge_endpoint endpoint;
    struct sockaddr_un address;

    cr_assert_eq(midge_endpoint_parse(text, &endpoint), MIDGE_OK, "%s", text);
    cr_assert(endpoint.is_unix);
    memcpy(&address, &endpoint.address, sizeof address);
    cr_expect_str_eq(address.sun_path, path);
}

static void expect_refused(const char *text)
{
    struct midge_endpoint endpoint;

    cr_expect_eq(midge_endpoint_parse(text, &endpoint), MIDGE_E_CONFIG, "%s", text);
}

Test(endpoint, tcp_is_host_and_port_or_a_port_on_loopback)
{
    expect_tcp("nats://127.0.0.2:4222", "127.0.0.2", 4222);
    expect_tcp("nats://localhost:1", "127.0.0.1", 1);
    expect_tcp("tcp:65535", "127.0.0.1", 65535);
}

Test(endpoint, unix_is_a_path_with_or_without_slashes_before_it)
{
    expect_unix("unix:///run/a.sock", "/run/a.sock");
    expect_unix("unix:/run/a.sock", "/run/a.sock");
    expect_unix("unix:a.sock", "a.sock");
}

Test(endpoint, anything_else_is_refused)
{
    expect_refused("");
    expect_refused("4222");
    expect_refused("tcp:");
    expect_refused("tcp:0");
    expect_refused("tcp:65536");
    expect_refused("tcp:-1");
    expect_refused("tcp:12x");
    expect_refused("nats://127.0.0.1");
    expect_refused("nats://example.org:4222");
    expect_refused("nats://111.111.111.1111:4222");
    expect_refused("unix:");
    expect_refused("unix:///a-path-that-is-longer-than-the-hundred-and-eight-bytes-that-a-socket-"
                   "address-has-room-for-in-linux-and-elsewhere.sock");
}
