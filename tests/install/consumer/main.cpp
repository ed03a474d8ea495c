// The same program in C++: a client with an owner, and a lambda as call-back.
#include <midge/client.h>

#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

constexpr std::uint32_t timeout_ms = 10000;

static void must(midge_status status)
{
    if (status != MIDGE_OK)
        throw std::runtime_error(midge_client_status_text(status));
}

struct destroy {
    void operator()(midge_client *client) const { midge_client_destroy(client); }
};

int main()
{
    midge_options options;
    midge_options_init(&options);
    midge_client *made = nullptr;
    must(midge_client_create(&options, &made, nullptr));
    const std::unique_ptr<midge_client, destroy> client(made);
    must(midge_client_connect(client.get(), timeout_ms));

    midge_sub *sub = nullptr;
    std::string greeting = "hello";
    must(midge_client_subscribe(client.get(), "greet", nullptr, &sub, &greeting,
                                [](void *context, const midge_msg *request) {
                                    const auto &text = *static_cast<std::string *>(context);
                                    must(midge_msg_respond(request, text.data(), text.size()));
                                }));
    const midge_msg *reply = nullptr;
    must(midge_client_request(client.get(), "greet", nullptr, 0, timeout_ms, &reply));
    const midge_slice payload = reply->payload;
    std::cout << std::string(reinterpret_cast<const char *>(payload.base), payload.len) << "\n";
}
