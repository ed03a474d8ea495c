"""A server that was killed can be started again at once, on the same port.

A supervisor does this, and so does every client's reconnect test. Method: kill with connections open, start
without a pause, many times over; the new process must listen, and must answer a new client.

    restart.py --server midge|nats-server
"""

import argparse
import socket
import sys

import harness

ROUNDS = 20
CONNECTIONS = 4
ANSWER_TIMEOUT_S = 10


def connect(port):
    """A client that has had its PONG."""
    client = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S)
    client.sendall(b"CONNECT {}\r\nPING\r\n")
    answer = b""
    while b"PONG\r\n" not in answer:
        received = client.recv(4096)
        if not received:
            sys.exit(f"fail: closed after {answer!r}")
        answer += received
    return client


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["midge", "nats-server"], required=True)
    try:
        with harness.Server(harness.find_server(parser.parse_args().server)) as server:
            for _ in range(ROUNDS):
                clients = [connect(server.port) for _ in range(CONNECTIONS)]
                server.restart()
                for client in clients:
                    client.close()
            connect(server.port).close()
    except harness.ServerError as error:
        sys.exit(f"fail: {error}")
    print(f"ok {ROUNDS} restarts")


if __name__ == "__main__":
    main()
