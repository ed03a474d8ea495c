"""A server ends when it is asked to, and one that was killed can be started again at once on the same port.

A supervisor does both, and so does every client's reconnect test. Method: many rounds, clients connected.
Killed without warning: the new process, started without a pause, must listen and answer. Interrupted amid
traffic from clients that come back as soon as they are cut off: the process must end with status 0.

    lifecycle.py --server midge|nats-server
"""

import argparse
import socket
import sys
import threading

import harness

ROUNDS = 20
CONNECTIONS = 4
ANSWER_TIMEOUT_S = 10


def connect(port):
    """A client that has had its PONG."""
    client = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S)
    client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
    answer = b""
    while b"PONG\r\n" not in answer:
        received = client.recv(4096)
        if not received:
            client.close()
            raise ConnectionResetError(f"closed after {answer!r}")
        answer += received
    return client


def kill_and_restart(program):
    with harness.Server(program) as server:
        for _ in range(ROUNDS):
            clients = [connect(server.port) for _ in range(CONNECTIONS)]
            server.restart()
            for client in clients:
                client.close()
        connect(server.port).close()


def chatter(port, over, connected):
    """Publish and subscribe until `over`; cut off, come back at once."""
    while not over.is_set():
        try:
            with connect(port) as client:
                connected.set()
                while not over.is_set():
                    client.sendall(b"SUB foo 1\r\nPUB foo 3\r\nabc\r\nUNSUB 1\r\nPING\r\n")
                    if not client.recv(4096):
                        break
        except OSError:
            over.wait(0.001)


def interrupt(program, round_index):
    """Returns None, or what was wrong with the end."""
    over = threading.Event()
    connected = [threading.Event() for _ in range(CONNECTIONS)]
    with harness.Server(program) as server:
        threads = [threading.Thread(target=chatter, args=(server.port, over, event)) for event in connected]
        for thread in threads:
            thread.start()
        for event in connected:
            event.wait(ANSWER_TIMEOUT_S)
        over.wait(round_index * 0.001)  # another moment of the traffic each time
        wrong = server.stop()
        over.set()
    for thread in threads:
        thread.join()
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["midge", "nats-server"], required=True)
    program = harness.find_server(parser.parse_args().server)
    try:
        kill_and_restart(program)
        print(f"ok {ROUNDS} restarts", flush=True)
        for i in range(ROUNDS):
            wrong = interrupt(program, i)
            if wrong:
                sys.exit(f"fail round {i}: {wrong}")
        print(f"ok {ROUNDS} ends", flush=True)
    except (harness.ServerError, OSError) as error:
        sys.exit(f"fail: {error}")


if __name__ == "__main__":
    main()
