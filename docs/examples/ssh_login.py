"""A shell in a container that has no public address: start sshd and print the ssh command."""

import subprocess
import time

import quictunnel

if __name__ == "__main__":
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e"])
    with quictunnel.forward(port=22, unencrypted=True) as tunnel:
        hostname, port = tunnel.tcp_socket
        print(f"ssh into container using: ssh -p {port} root@{hostname}", flush=True)
        time.sleep(3600)  # for an hour, or until killed
