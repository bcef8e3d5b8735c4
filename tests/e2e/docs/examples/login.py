"""SSH into a container, as a user writes it."""

import subprocess
import time

import quictunnel


def some_function():
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e"])
    with quictunnel.forward(port=22, unencrypted=True) as tunnel:
        hostname, port = tunnel.tcp_socket
        connection_cmd = f"ssh -p {port} root@{hostname}"
        print(f"ssh into container using: {connection_cmd}")
        time.sleep(3600)  # keep alive for 1 hour or until killed


if __name__ == "__main__":
    some_function()
