"""Reserved names: labels below the edge's domain that only a token which lists them may bind."""

from __future__ import annotations

from typing import Final

RESERVED: Final = frozenset(
    # RFC 2142 and similar: certificate authorities accept mail to these as proof of domain ownership.
    ("abuse", "admin", "administrator", "hostmaster", "info", "noc", "postmaster", "root", "security", "ssladmin",
     "ssladministrator", "sslwebmaster", "sysadmin", "webmaster",
     # Programs look these up on their own and trust the answer.
     "autoconfig", "autodiscover", "broadcasthost", "isatap", "localdomain", "localhost", "mta-sts", "openpgpkey",
     "wpad",
     # Users expect these services to belong to the owner of the domain.
     "account", "accounts", "api", "auth", "billing", "blog", "cdn", "console", "dashboard", "dns", "docs", "edge",
     "ftp", "help", "id", "imap", "login", "mail", "mx", "ns", "ns1", "ns2", "ns3", "ns4", "oauth", "pop", "pop3",
     "proxy", "quictunnel", "secure", "signin", "smtp", "sso", "ssh", "static", "status", "support", "tunnel",
     "vpn", "webmail", "www", "www1", "www2")
)  # fmt: skip
